"""What docs/deploy.md asks for: large mail is in a bucket, which is at `MAIL_BUCKET_URL`."""

import os

from botocore.config import Config

from tests.acceptance.impatient_settings import *  # noqa: F403 - Django reads every name
from tests.acceptance.impatient_settings import STORAGES

STORAGES = {
    **STORAGES,
    "mail": {
        "BACKEND": "storages.backends.s3.S3Storage",
        "OPTIONS": {
            "bucket_name": "mail",
            "region_name": "us-east-1",
            "endpoint_url": os.environ["MAIL_BUCKET_URL"],
            "access_key": "tests",
            "secret_key": "tests",
            "client_config": Config(
                connect_timeout=2, read_timeout=5, retries={"total_max_attempts": 2}
            ),
        },
    },
}
