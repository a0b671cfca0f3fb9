"""What a publish may raise."""


class MessageTooLarge(ValueError):
    """A message is larger than SQS takes."""


class DelayRefused(ValueError):
    """A FIFO queue takes no delay of a single message: it would be sent early."""


class PublishRefused(ValueError):
    """SQS refuses the message for good."""


class ChannelClosed(ConnectionError):
    """The connection was lost."""
