"""AWS Signature Version 4 of a request to an S3-compatible store (pure).

https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html; paths and query values here
need no escaping: keys are hex digits behind a prefix of plain characters.
"""

import hashlib
import hmac
from datetime import datetime
from typing import Final, NamedTuple

EMPTY_SHA256: Final = hashlib.sha256(b"").hexdigest()
_ALGORITHM: Final = "AWS4-HMAC-SHA256"
_SIGNED: Final = "host;x-amz-content-sha256;x-amz-date"


class Keys(NamedTuple):
    """Who signs, and for which region."""

    access: str
    secret: str
    region: str


def signed_headers(
    keys: Keys, method: str, host: str, path: str, now: datetime, payload_sha256: str = EMPTY_SHA256
) -> dict[str, str]:
    """The headers that make the request one of the keys' owner. `now` in UTC; `host` as in the URL."""
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    scope = f"{stamp[:8]}/{keys.region}/s3/aws4_request"
    canonical = "\n".join(
        (
            method,
            path,
            "",
            f"host:{host}",
            f"x-amz-content-sha256:{payload_sha256}",
            f"x-amz-date:{stamp}",
            "",
            _SIGNED,
            payload_sha256,
        )
    )
    to_sign = "\n".join((_ALGORITHM, stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()))
    key = f"AWS4{keys.secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
    return {
        "x-amz-content-sha256": payload_sha256,
        "x-amz-date": stamp,
        "Authorization": f"{_ALGORITHM} Credential={keys.access}/{scope}, SignedHeaders={_SIGNED}, "
        f"Signature={signature}",
    }
