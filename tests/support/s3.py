"""moto's S3 server on loopback, with a bucket and a user whose signatures it checks (blocking)."""

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import quote

import boto3

from g8tools.up.vm import free_port

BUCKET = "chunks"
REGION = "eu-west-1"
_START_S = 60.0


class S3Server(NamedTuple):
    """`access` and `secret` are the user's keys."""

    port: int
    access: str
    secret: str

    def url(self, path: str = f"/{BUCKET}/some/folder", secret: str = "") -> str:
        word = quote(secret or self.secret, safe="")
        return f"s3://{self.access}:{word}@127.0.0.1:{self.port}{path}?region={REGION}"

    def reset(self) -> None:
        """Forget all chunks."""
        bucket = boto3.resource("s3", **_options(self.port, self.access, self.secret)).Bucket(BUCKET)
        bucket.objects.all().delete()


def _options(port: int, access: str = "any", secret: str = "any") -> dict[str, str]:
    return {
        "endpoint_url": f"http://127.0.0.1:{port}",
        "region_name": REGION,
        "aws_access_key_id": access,
        "aws_secret_access_key": secret,
    }


@contextlib.contextmanager
def s3_server() -> Iterator[S3Server]:
    port = free_port()
    # As many calls as the set-up below makes are taken unsigned; then every signature is checked.
    env = os.environ | {"INITIAL_NO_AUTH_ACTION_COUNT": "4"}
    argv = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(port, process)
        iam = boto3.client("iam", **_options(port))
        iam.create_user(UserName="keeper")
        allowed = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
        iam.put_user_policy(UserName="keeper", PolicyName="chunks", PolicyDocument=policy)
        keys = iam.create_access_key(UserName="keeper")["AccessKey"]
        s3 = boto3.client("s3", **_options(port))
        s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
        yield S3Server(port, keys["AccessKeyId"], keys["SecretAccessKey"])
    finally:
        process.kill()
        process.wait()


def _wait(port: int, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + _START_S
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/", timeout=5).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            assert process.poll() is None, "moto ended"
            assert time.monotonic() < end, "moto does not answer"
            time.sleep(0.05)
