"""Setting up the serializer `auth` from files, as the settings or the caller name them."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from umbel.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from umbel.app.app import App


def setup_security(
    app: App,
    allowed_serializers: Iterable[str] | None = None,
    key: str | None = None,
    key_password: str | bytes | None = None,
    cert: str | None = None,
    store: str | None = None,
    digest: str | None = None,
    serializer: str = "json",
) -> None:
    """See `App.setup_security`."""
    conf = app.conf
    if conf.task_serializer != "auth" or set(conf.accept_content) - {"auth", "application/data"}:
        raise ImproperlyConfigured(
            "Signing needs task_serializer = 'auth', and accept_content = ['auth']: there is no "
            "point in signing messages if others are accepted too."
        )
    key, cert = key or conf.security_key, cert or conf.security_certificate
    store = store or conf.security_cert_store
    if not (key and cert and store):
        raise ImproperlyConfigured(
            "Signing needs three settings, paths of PEM files: security_key, security_certificate "
            "and security_cert_store (a folder or a pattern)."
        )
    from umbel.message import auth

    password = key_password or conf.security_key_password
    pattern = os.path.join(store, "*") if os.path.isdir(store) else store
    files = sorted(path for path in glob.glob(pattern) if os.path.isfile(path))
    auth.register(
        auth.Auth(
            _read("security_key", key),
            password.encode("utf-8") if isinstance(password, str) else password,
            _read("security_certificate", cert),
            [_read("security_cert_store", path) for path in files],
            digest or conf.security_digest,
            serializer,
            allowed_serializers or (),
        )
    )


def _read(setting: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        message = f"{setting}: {path} cannot be read: {error.strerror}"
        raise ImproperlyConfigured(message) from error
