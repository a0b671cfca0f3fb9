"""SQS's error codes, grouped by what the sender of the request should do."""

from __future__ import annotations

from botocore.exceptions import ClientError

NO_SUCH_QUEUE = frozenset({"QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue"})

# SQS denies access to the queue or to the key that encrypts it. Source: SQS API Reference, "Common Errors" and the
# errors of SendMessage. Codes for wrong or expired credentials are not included, because they do not concern a single
# queue.
ACCESS_DENIED = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "KMS.AccessDeniedException",
        "KMS.DisabledException",
        "KMS.InvalidKeyUsageException",
        "KMS.InvalidStateException",
        "KMS.NotFoundException",
        "KMS.OptInRequired",
        "KmsAccessDenied",
        "KmsDisabled",
        "KmsInvalidKeyUsage",
        "KmsInvalidState",
        "KmsNotFound",
        "KmsOptInRequired",
    }
)

# A receipt handle is stale once the message was received again or deleted. AWS answers a second DeleteMessage with 200,
# and a stale handle with InvalidParameterValue. Emulators answer both with ReceiptHandleIsInvalid.
STALE_HANDLE = frozenset(
    {
        "AWS.SimpleQueueService.MessageNotInflight",
        "InvalidParameterValue",
        "MessageNotInflight",
        "ReceiptHandleIsInvalid",
    }
)

# After one of these, a retry cannot help. The first set is for deletes and changes of visibility: the handle is stale,
# or the queue no longer exists.
FINAL_FOR_HANDLE = STALE_HANDLE | NO_SUCH_QUEUE
FINAL_FOR_SEND = NO_SUCH_QUEUE | {
    "AWS.SimpleQueueService.UnsupportedOperation",
    "InvalidAttributeValue",
    "InvalidMessageContents",
    "InvalidParameterValue",
    "MissingParameter",
    "UnsupportedOperation",
}


def code_of(error: Exception) -> str:
    """Return the error code in SQS's response, or "" if the error is not a response from SQS."""
    return str(error.response["Error"]["Code"]) if isinstance(error, ClientError) else ""
