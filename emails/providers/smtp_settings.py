"""The SMTP provider's settings."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator

from settings import EnvironmentSettings

# What Python can look up: a name with labels as in RFC 1035, section 2.3.4, or an IP address.
HOST_PATTERN = r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?|[0-9A-Fa-f:]{2,39}"

# What servers accept in EHLO (RFC 5321, section 4.1.2): a name with a dot, and not an IP address without brackets.
_EHLO_LABEL = "([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
EHLO_PATTERN = rf"([A-Za-z0-9]{_EHLO_LABEL}\.)+[A-Za-z]{_EHLO_LABEL}"


class SmtpSettings(EnvironmentSettings):
    """The SMTP server, and how to talk to it."""

    smtp_host: str = Field(
        default="",
        pattern=f"^({HOST_PATTERN})?$",
        description="the SMTP server: its host name, as in its certificate, or an IP address",
    )
    smtp_port: int = Field(default=587, ge=1, le=65535, description="the SMTP server's port; 465 if it expects tls")
    smtp_security: Literal["starttls", "tls", "none"] = Field(
        default="starttls", description="starttls, tls from the first byte, or none for clear text"
    )
    smtp_ehlo_name: str = Field(
        default="",
        pattern=f"^({EHLO_PATTERN})?$",
        max_length=255,  # RFC 5321, section 4.5.3.1.2
        description="the name by which a worker greets the SMTP server (EHLO), with a dot, such as mail.example.com",
    )
    smtp_username: str = Field(
        default="", repr=False, description="the user name for the SMTP server, if it requires a login"
    )
    smtp_password: SecretStr | None = Field(default=None, description="the password of EMAIL_SMTP_USERNAME")

    # `info.data` has the valid fields above.
    @field_validator("smtp_username")
    @classmethod
    def _logs_in_by_tls(cls, username: str, info: ValidationInfo) -> str:
        if username and info.data.get("smtp_security") == "none":
            raise ValueError(
                "should be empty if EMAIL_SMTP_SECURITY is none, because the password would be sent in clear text"
            )
        return username
