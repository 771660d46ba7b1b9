"""What messages are signed with, from files and secrets that the settings or the caller name."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from umbel.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from umbel.app.app import App
    from umbel.app.settings.table import Settings
    from umbel.message.signing import Signer


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


def signer_of(conf: Settings) -> Signer | None:
    """What signs and verifies an app's messages; None if they are not signed.

    `ImproperlyConfigured` for settings that do not go together, `SecurityError` for a bad key.
    """
    shared = conf.security_hmac_key
    if shared is not None and not isinstance(shared, (str, bytes)):
        shared = tuple(shared)
    return _make_signer(
        shared,
        conf.security_ed25519_key,
        conf.security_key_password,
        tuple(conf.security_ed25519_trusted),
    )


@lru_cache(maxsize=16)
def _make_signer(
    shared: str | bytes | tuple[str | bytes, ...] | None,
    key: str | None,
    password: str | bytes | None,
    trusted: tuple[str, ...],
) -> Signer | None:
    if shared is None and key is None and not trusted:
        return None
    from umbel.message.signing import KeyPair, SharedKey

    if shared is not None:
        if key is not None or trusted:
            raise ImproperlyConfigured(
                "Messages are signed with security_hmac_key, a secret that all share, or with "
                "security_ed25519_key, a key of each's own: set one of them."
            )
        return SharedKey(shared)
    if key is None:
        raise ImproperlyConfigured(
            "security_ed25519_trusted names those whose messages are run; to send messages, and a "
            "worker's retries, security_ed25519_key is needed too: openssl genpkey -algorithm "
            "ed25519 -out key.pem"
        )
    return KeyPair(
        _read("security_ed25519_key", key),
        password.encode("utf-8") if isinstance(password, str) else password,
        [_read("security_ed25519_trusted", path) for path in trusted],
    )


def _read(setting: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        message = f"{setting}: {path} cannot be read: {error.strerror}"
        raise ImproperlyConfigured(message) from error
