class Mailbox:
    oid: property
