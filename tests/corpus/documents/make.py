"""Makes bundle documents, good and bad: cases/<id>.json and manifest.json.

    python3 make.py

With Python's `cryptography` and `json` alone. Roots are those of ../certificates.
"""

import base64
import functools
import json
import pathlib
import sys

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "certificates"))
sys.dont_write_bytecode = True
import der  # noqa: E402

DOMAIN = "partner.example"
LONG = (der.day(2026), der.day(2036))
CASES = []


def number(value, size=None):
    size = size or (value.bit_length() + 7) // 8
    return base64.urlsafe_b64encode(value.to_bytes(size, "big")).decode().rstrip("=")


def root(key, more=(), ca=True, usage=der.KEY_CERT_SIGN):
    form = [der.basic_constraints(ca), der.key_usage(usage), *more]
    return der.certificate(
        subject="a root", issuer="a root", key=key, signer=key, extensions=form, valid=LONG
    )


def jwk(certificate, **changes):
    """As RFC 7518 and RFC 8037 say it, from the certificate as `cryptography` reads it."""
    public = x509.load_der_x509_certificate(certificate).public_key()
    if isinstance(public, ec.EllipticCurvePublicKey):
        numbers, size = public.public_numbers(), (public.curve.key_size + 7) // 8
        curve = {256: "P-256", 384: "P-384", 521: "P-521"}[public.curve.key_size]
        key = {"kty": "EC", "crv": curve, "x": number(numbers.x, size), "y": number(numbers.y, size)}
    elif isinstance(public, rsa.RSAPublicKey):
        numbers = public.public_numbers()
        key = {"kty": "RSA", "n": number(numbers.n), "e": number(numbers.e)}
    else:
        raw = public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        key = {"kty": "OKP", "crv": "Ed25519", "x": number(int.from_bytes(raw, "big"), 32)}
    key |= {"use": "x509-svid", "x5c": [base64.b64encode(certificate).decode()]}
    key |= changes
    return {name: value for name, value in key.items() if value is not None}


def case(title, made, text, *, roots=None, sequence=None, hint=None, written=False, refused=None):
    """`written`: our own writer makes the same of it."""
    if isinstance(text, list):
        text = {"keys": text}
        text |= {} if sequence is None else {"spiffe_sequence": sequence}
        text |= {} if hint is None else {"spiffe_refresh_hint": hint}
    text = text if isinstance(text, (str, bytes)) else json.dumps(text, indent=1) + "\n"
    (HERE / "cases" / f"{title}.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    outcome = {"refused": refused} if refused else {
        "roots": [base64.b64encode(each).decode() for each in roots],
        "sequence": sequence,
        "refresh_hint": hint,
        "written": written,
    }
    CASES.append({"id": title, "made": made, **outcome})


for old in (HERE / "cases").glob("*"):
    old.unlink()

P256, OTHER = root(der.Key("partner-root")), root(der.Key("second"))
P384, RSA = root(der.Key("p384")), root(der.Key("rsa-2048"))
EDWARDS = root(der.Key("ed25519"))
LEAF = root(der.Key("leaf"), ca=False)


@functools.cache
def said(domain):
    names = der.alternative_names(der.uri(f"spiffe://{domain}"))
    return root(der.Key("partner-root"), more=[names])


JWT = {"kty": "EC", "use": "jwt-svid", "kid": "a", "crv": "P-256", "x": "AA", "y": "AA"}

case("one", "one root, P-256", [jwk(P256)], roots=[P256], sequence=1, hint=300, written=True)
case("without-numbers", "no sequence and no hint", [jwk(P256)], roots=[P256], written=True)
case("several", "roots of all kinds of keys", [jwk(each) for each in (P256, P384, RSA, EDWARDS, OTHER)],
     roots=[P256, P384, RSA, EDWARDS, OTHER], sequence=2**64 - 1, hint=0, written=True)
case("named", "a root that says whose it is", [jwk(said(DOMAIN))], roots=[said(DOMAIN)])
case("with-jwt", "keys for JWT beside the root", [JWT, jwk(P256), JWT], roots=[P256], sequence=7)
case("unknown-use", "a use that nobody knows", [jwk(OTHER, use="x509-svid-next"), jwk(P256)], roots=[P256])
case("use-in-capitals", "a use is case sensitive", [jwk(OTHER, use="X509-SVID"), jwk(P256)], roots=[P256])
case("unknown-kty", "a kind of key that nobody knows",
     [{"kty": "LATTICE", "use": "x509-svid", "x": {"a": 1}, "x5c": 5}, jwk(P256)], roots=[P256])
case("no-x5c", "a key without certificate", [jwk(OTHER, x5c=None), jwk(P256)], roots=[P256])
case("empty-x5c", "a key with no certificate in its list", [jwk(OTHER, x5c=[]), jwk(P256)], roots=[P256])
case("two-in-x5c", "more certificates after the first",
     [jwk(P256, x5c=[base64.b64encode(each).decode() for each in (P256, OTHER)])], roots=[P256])
case("twice", "the same root twice", [jwk(P256), jwk(P256)], roots=[P256])
case("with-kid", "parameters that are not ours",
     {"keys": [jwk(P256, kid="a", alg="ES256")], "more": {"a": []}}, roots=[P256])

MISSING = "is missing, or no text"
case("no-use", "no use", [jwk(P256, use=None)], refused="keys[0].use " + MISSING)
case("use-number", "a use that is a number", [jwk(P256, use=1)], refused="keys[0].use " + MISSING)
case("no-kty", "no kind of key", [jwk(P256), jwk(OTHER, kty=None)], refused="keys[1].kty " + MISSING)
case("key-is-text", "a key that is a text", ["a"], refused="keys[0].use " + MISSING)
NOT_SET = "the bundle document is no JWK set of SPIFFE"
for title, made, text in [
    ("empty", "nothing", ""),
    ("text", "no JSON", "keys"),
    ("list", "a list", "[]"),
    ("no-keys", "no keys", {"spiffe_sequence": 1}),
    ("keys-object", "keys are no list", {"keys": {"0": jwk(P256)}}),
    ("keys-null", "keys are null", {"keys": None}),
    ("keys-twice", "keys are there twice", '{"keys": [], "keys": []}'),
    ("cut", "cut in the middle", json.dumps({"keys": [jwk(P256)]})[:200]),
    ("more-behind", "something after the end", json.dumps({"keys": [jwk(P256)]}) + "{}"),
    ("byte-order-mark", "a byte order mark", "\ufeff" + json.dumps({"keys": [jwk(P256)]})),
    ("nested", "ten thousand brackets", '{"keys":' + "[" * 10_000),
    ("sequence-negative", "a negative sequence", {"keys": [jwk(P256)], "spiffe_sequence": -1}),
    ("sequence-fraction", "a fraction for sequence", {"keys": [jwk(P256)], "spiffe_sequence": 1.5}),
    ("sequence-text", "a text for sequence", {"keys": [jwk(P256)], "spiffe_sequence": "1"}),
    ("sequence-too-large", "a sequence of 65 bits", {"keys": [jwk(P256)], "spiffe_sequence": 2**64}),
    ("hint-negative", "a negative hint", {"keys": [jwk(P256)], "spiffe_refresh_hint": -1}),
    ("hint-text", "a text for hint", {"keys": [jwk(P256)], "spiffe_refresh_hint": "5m"}),
]:
    case(title, made, text, refused=NOT_SET)
case("not-utf-8", "a byte that is no UTF-8", b'{"keys": [], "a": "\xff"}',
     refused="the bundle document is not UTF-8")
NO_ROOT = "the bundle document has no root for X.509 (a key whose use is x509-svid)"
case("keys-empty", "no key at all", [], refused=NO_ROOT)
case("only-jwt", "keys for JWT only", [JWT], refused=NO_ROOT)
OTHER_KEY = "keys[0] says another key than its certificate"
case("other-key", "another root's key", [jwk(OTHER, x5c=jwk(P256)["x5c"])], refused=OTHER_KEY)
case("other-rsa-key", "another modulus", [jwk(RSA, n=jwk(RSA)["n"][:-2] + "AA")], refused=OTHER_KEY)
case("other-kty", "another kind of key", [jwk(P256, kty="RSA")], refused=OTHER_KEY)
case("other-curve", "another curve", [jwk(P256, crv="P-384")], refused=OTHER_KEY)
case("no-coordinate", "half a point", [jwk(P256, y=None)], refused=OTHER_KEY)
case("no-key", "no key beside the certificate", [jwk(P256, crv=None, x=None, y=None)], refused=OTHER_KEY)
case("padded-coordinate", "base64url with padding", [jwk(P256, x=jwk(P256)["x"] + "=")], refused=OTHER_KEY)
case("private-key", "a private key beside it changes nothing", [jwk(P256, d="AA")], roots=[P256])
case("x-is-number", "a number for a coordinate", [jwk(P256, x=5)],
     refused="keys[0] is no key of its kind")
case("x5c-is-text", "x5c is no list", [jwk(P256, x5c="MII")], refused="keys[0] is no key of its kind")
ENCODING = "keys[0].x5c[0] is not base64"
in_url = base64.urlsafe_b64encode(P256).decode()
assert in_url != base64.b64encode(P256).decode()
case("x5c-base64url", "the certificate in base64url", [jwk(P256, x5c=[in_url])], refused=ENCODING)
pem = x509.load_der_x509_certificate(P256).public_bytes(serialization.Encoding.PEM).decode()
case("x5c-pem", "the certificate in PEM", [jwk(P256, x5c=[pem])], refused=ENCODING)
CERTIFICATE = "keys[0].x5c[0] is no certificate of an authority: "
case("x5c-rubbish", "no certificate in it", [jwk(P256, x5c=["AAAA"])],
     refused=CERTIFICATE + "the certificate cannot be read")
case("leaf", "a certificate that is no authority's", [jwk(LEAF)],
     refused=CERTIFICATE + "it is no authority's (CA:TRUE)")
NOT_SIGNING = root(der.Key("partner-root"), usage=der.DIGITAL_SIGNATURE)
case("not-signing", "an authority whose key is not for certificates", [jwk(NOT_SIGNING)],
     refused=CERTIFICATE + "its key is not for signing certificates")
for title, name in [("other-domain", "prod.example"), ("look-alike-domain", "partner.example.org"),
                    ("domain-with-path", "partner.example/a")]:
    case(title, "a root that says that it is somebody else's", [jwk(said(name))],
         refused=f"keys[0].x5c[0] is a root of spiffe://{name}, not of {DOMAIN}")
case("good-and-bad", "a good root does not help a bad one", [jwk(P256), jwk(LEAF)],
     refused=CERTIFICATE.replace("[0].x", "[1].x", 1) + "it is no authority's (CA:TRUE)")

manifest = {"domain": DOMAIN, "cases": CASES}
(HERE / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
print(len(CASES), "cases")
