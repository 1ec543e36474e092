"""The S3 store against moto's server, which checks signatures."""

from collections.abc import Iterator
from datetime import UTC, datetime

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import pytest

from g8node.errors import InvalidArgument, NotFound, PermissionDenied, Unavailable
from g8node.store.locate import open_store
from g8node.wire.sigv4 import Keys, signed_headers
from tests.support.chunks import some_chunks
from tests.support.s3 import S3Server, s3_server

CHUNKS = some_chunks(5, size=100_000)
IDS = list(CHUNKS)


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


async def test_objects_are_named_as_rfs_names_them(server: S3Server) -> None:
    whole, folder = open_store(server.url("/chunks")), open_store(server.url("/chunks/a/b"))
    await folder.put_many(CHUNKS)
    assert await folder.get_many(IDS) == CHUNKS
    assert all(isinstance(got, NotFound) for got in (await whole.get_many(IDS)).values())
    await whole.close()
    await folder.close()


async def test_wrong_secret_is_refused_and_not_taken_for_absence(server: S3Server) -> None:
    store = open_store(server.url(secret="wrong"), retries=1)
    got = (await store.get_many(IDS[:1]))[IDS[0]]
    assert isinstance(got, Unavailable)
    assert "SignatureDoesNotMatch" in got.message
    with pytest.raises(PermissionDenied):
        await store.put_many(CHUNKS)
    await store.close()


async def test_bucket_that_is_not_there_is_unavailable(server: S3Server) -> None:
    store = open_store(server.url("/nobodys"), retries=1)
    got = (await store.get_many(IDS[:1]))[IDS[0]]
    assert isinstance(got, Unavailable)
    assert "NoSuchBucket" in got.message
    with pytest.raises(Unavailable):
        await store.put_many(CHUNKS)
    await store.close()


def test_signature_is_that_of_the_vendors_client() -> None:
    keys = Keys("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "eu-west-1")
    path = "/bucket/prefix/" + "ab" * 32
    ours = signed_headers(keys, "GET", "s3.example:9000", path, datetime.now(UTC))
    request = botocore.awsrequest.AWSRequest("GET", f"http://s3.example:9000{path}")
    request.context["timestamp"] = ours["x-amz-date"]
    request.headers["x-amz-date"] = ours["x-amz-date"]
    request.headers["x-amz-content-sha256"] = ours["x-amz-content-sha256"]
    request.headers["host"] = "s3.example:9000"
    signer = botocore.auth.S3SigV4Auth(botocore.credentials.Credentials(*keys[:2]), "s3", keys.region)
    signature = signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)
    assert ours["Authorization"].endswith(f"Signature={signature}")


@pytest.mark.parametrize(
    "url", ["s3://h/bucket", "s3://k:s@h", "s3://k:s@h/B", "s3://k:s@h/bucket/a b", "s3://k:s@h/bucket?x=1"]
)
def test_address_that_is_wrong_is_refused(url: str) -> None:
    with pytest.raises(InvalidArgument, match="chunk store"):
        open_store(url)
