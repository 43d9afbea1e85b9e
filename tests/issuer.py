"""An issuer of tokens for OAUTHBEARER, as Keycloak is one: keys, and tokens for whoever knows the secret."""

from __future__ import annotations

import base64
import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

SECRET = "the-clients-secret"  # noqa: S105  (of a test's)


class Issuer:
    """One that serves on loopback in a ``with`` block. Whoever knows the secret is who it says to be.

    Attributes:
        url: Where it is.
        jwks_url: Where its public keys are.
        token_url: Where it gives tokens.
        seconds: How long those last.
        secret: Without it there are none.
    """

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(65537, 2048)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.jwks_url, self.token_url = f"{self.url}/keys", f"{self.url}/token"
        self.seconds = 300
        self.secret = SECRET

    def __enter__(self) -> Self:
        Thread(target=self._server.serve_forever, name="issuer", daemon=True).start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def client_config(self, user: str) -> dict[str, str]:
        """Return what a client is told that gets this user's tokens by itself."""
        return {
            "sasl.oauthbearer.method": "oidc",
            "sasl.oauthbearer.client.id": user,
            "sasl.oauthbearer.client.secret": SECRET,
            "sasl.oauthbearer.token.endpoint.url": self.token_url,
        }

    def token(self, subject: str, *, key: rsa.RSAPrivateKey | None = None) -> str:
        """Return a token for a user, signed with the issuer's key or with another one."""
        now = int(time.time())
        claims = {"iss": self.url, "sub": subject, "iat": now, "exp": now + self.seconds}
        return jwt.encode(claims, key or self._key, "RS256", headers={"kid": "1"})

    def answer(self, path: str, authorization: str) -> tuple[int, dict[str, object]]:
        """Return what it says to a request."""
        if path == "/keys":
            public = jwt.algorithms.RSAAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
            return 200, {"keys": [{**public, "kid": "1", "use": "sig", "alg": "RS256"}]}
        user, _, secret = base64.b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
        if secret != self.secret:
            return 401, {"error": "invalid_client", "error_description": f"{user} is not known here"}
        return 200, {"access_token": self.token(user), "token_type": "Bearer", "expires_in": self.seconds}


def _handler(issuer: Issuer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, answer = issuer.answer(self.path, self.headers.get("Authorization", ""))
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815  (as its base calls it)

        def log_message(self, *_args: object) -> None:
            """Say nothing."""

    return Handler
