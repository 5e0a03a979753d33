"""Plain boto3: `upload_file` for each file of a folder, several at a time. A program.

    python plain_s3.py URL FOLDER THREADS    prints the seconds

A client as anyone would make it, with boto3's own defaults. One small object is stored first, so
that neither its making nor its first connection is in the time.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3


def main() -> None:
    url, folder, threads = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    client = boto3.session.Session().client(
        "s3",
        endpoint_url=url,
        aws_access_key_id="bench",
        aws_secret_access_key="bench",  # noqa: S106 - the sink checks none
        region_name="us-east-1",
    )
    client.put_object(Bucket="bench", Key="warm", Body=b"x")
    files = sorted(folder.iterdir())
    with ThreadPoolExecutor(threads) as pool:
        began = time.perf_counter()
        list(pool.map(lambda file: client.upload_file(str(file), "bench", file.name), files))
        print(time.perf_counter() - began)


if __name__ == "__main__":
    main()
