"""SQS's error codes, grouped by what they mean for who sent the request."""

from __future__ import annotations

from botocore.exceptions import ClientError

NO_SUCH_QUEUE = frozenset({"QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue"})

# The queue, or the key that encrypts it, is not for us. Source: SQS API Reference, "Common Errors" and the errors of
# SendMessage. Not here: that our credentials are wrong or expired, which is about us and not about one queue.
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

# A receipt handle is stale once the message was received again, or deleted. AWS answers a second DeleteMessage with
# 200 and a stale handle with InvalidParameterValue; emulators answer both with ReceiptHandleIsInvalid.
STALE_HANDLE = frozenset(
    {
        "AWS.SimpleQueueService.MessageNotInflight",
        "InvalidParameterValue",
        "MessageNotInflight",
        "ReceiptHandleIsInvalid",
    }
)

# No other try goes better. Of deletes and changes of visibility: the handle is stale, or the queue is gone.
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
    """The error code of SQS's answer, or "" where the error is no answer."""
    return str(error.response["Error"]["Code"]) if isinstance(error, ClientError) else ""
