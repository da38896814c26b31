"""X.509 certificates byte by byte (DER, X.690; RFC 5280): whatever form, also forms that no library would write.

Signatures alone come from `cryptography`.
"""

import datetime
import pathlib

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

KEYS = pathlib.Path(__file__).parent / "keys"


def tlv(tag, *parts):
    body = b"".join(parts)
    if len(body) < 128:
        length = bytes([len(body)])
    else:
        size = (len(body).bit_length() + 7) // 8
        length = bytes([0x80 | size]) + len(body).to_bytes(size, "big")
    return bytes([tag]) + length + body


def sequence(*parts):
    return tlv(0x30, *parts)


def integer(value):
    """A number, or the bytes of one as they are to stand there."""
    if isinstance(value, bytes):
        return tlv(0x02, value)
    return tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def oid(dotted):
    first, second, *rest = map(int, dotted.split("."))
    out = bytes([first * 40 + second])
    for arc in rest:
        piece = [arc & 0x7F]
        while arc := arc >> 7:
            piece.append(0x80 | arc & 0x7F)
        out += bytes(reversed(piece))
    return tlv(0x06, out)


def boolean(value):
    return tlv(0x01, b"\xff" if value else b"\x00")


def octets(*parts):
    return tlv(0x04, *parts)


def bits(positions):
    """Named bits (X.680, section 22): no trailing zeros."""
    if not positions:
        return tlv(0x03, b"\x00")
    last = max(positions)
    value = sum(1 << (last - at) for at in positions)
    unused = (7 - last) % 8
    return tlv(0x03, bytes([unused]), (value << unused).to_bytes(last // 8 + 1, "big"))


def context(number, *parts, constructed=True):
    return tlv(0x80 | (0x20 if constructed else 0) | number, *parts)


def time(instant):
    """UTCTime up to 2049 and GeneralizedTime after (RFC 5280, section 4.1.2.5)."""
    if instant.year < 2050:
        return tlv(0x17, instant.strftime("%y%m%d%H%M%SZ").encode())
    return tlv(0x18, instant.strftime("%Y%m%d%H%M%SZ").encode())


def name(common=None):
    if common is None:
        return sequence()
    return sequence(tlv(0x31, sequence(oid("2.5.4.3"), tlv(0x0C, common.encode()))))


class Key:
    """A test key of the corpus: read from keys/, or made and kept there."""

    def __init__(self, title, make=lambda: ec.generate_private_key(ec.SECP256R1())):
        path = KEYS / f"{title}.pem"
        if path.exists():
            self.private = serialization.load_pem_private_key(path.read_bytes(), None)
        else:
            self.private = make()
            pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
            KEYS.mkdir(exist_ok=True)
            text = self.private.private_bytes(pem, pkcs8, serialization.NoEncryption())
            path.write_bytes(text)
        self.title = title
        self.spki = self.private.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def sign(self, algorithm, message):
        kind, digest, _ = ALGORITHMS[algorithm]
        if kind == "rsa":
            return self.private.sign(message, padding.PKCS1v15(), digest())
        if kind == "ecdsa":
            return self.private.sign(message, ec.ECDSA(digest(), deterministic_signing=True))
        return self.private.sign(message)


NULL = tlv(0x05)
ALGORITHMS = {
    "ecdsa-sha256": ("ecdsa", hashes.SHA256, sequence(oid("1.2.840.10045.4.3.2"))),
    "ecdsa-sha384": ("ecdsa", hashes.SHA384, sequence(oid("1.2.840.10045.4.3.3"))),
    "ecdsa-sha1": ("ecdsa", hashes.SHA1, sequence(oid("1.2.840.10045.4.1"))),
    "rsa-sha256": ("rsa", hashes.SHA256, sequence(oid("1.2.840.113549.1.1.11"), NULL)),
    "rsa-sha1": ("rsa", hashes.SHA1, sequence(oid("1.2.840.113549.1.1.5"), NULL)),
    "rsa-md5": ("rsa", hashes.MD5, sequence(oid("1.2.840.113549.1.1.4"), NULL)),
    "ed25519": ("ed25519", None, sequence(oid("1.3.101.112"))),
}


def algorithm_of(key):
    private = key.private
    if isinstance(private, rsa.RSAPrivateKey):
        return "rsa-sha256"
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return "ed25519"
    return "ecdsa-sha384" if private.curve.key_size == 384 else "ecdsa-sha256"


def extension(dotted, value, critical):
    parts = [boolean(True)] if critical else []
    return sequence(oid(dotted), *parts, octets(value))


def basic_constraints(ca, path_length=None, critical=True):
    parts = [boolean(True)] if ca else []
    if path_length is not None:
        parts.append(integer(path_length))
    return extension("2.5.29.19", sequence(*parts), critical)


DIGITAL_SIGNATURE, KEY_ENCIPHERMENT, KEY_AGREEMENT, KEY_CERT_SIGN, CRL_SIGN = 0, 2, 4, 5, 6


def key_usage(*positions, critical=True):
    return extension("2.5.29.15", bits(positions), critical)


SERVER_AUTH, CLIENT_AUTH = "1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"
CODE_SIGNING, ANY_USAGE = "1.3.6.1.5.5.7.3.3", "2.5.29.37.0"


def extended_key_usage(*purposes, critical=False):
    return extension("2.5.29.37", sequence(*map(oid, purposes)), critical)


def uri(text):
    text = text if isinstance(text, bytes) else text.encode()
    return context(6, text, constructed=False)


def dns(text):
    return context(2, text.encode(), constructed=False)


def email(text):
    return context(1, text.encode(), constructed=False)


def other_name(dotted, value):
    return context(0, oid(dotted), context(0, value))


def directory_name(common):
    return context(4, name(common))


def alternative_names(*names, critical=False):
    return extension("2.5.29.17", sequence(*names), critical)


def name_constraints(permitted=(), excluded=(), critical=True):
    parts = []
    if permitted:
        parts.append(context(0, *map(sequence, permitted)))
    if excluded:
        parts.append(context(1, *map(sequence, excluded)))
    return extension("2.5.29.30", sequence(*parts), critical)


def certificate(
    *,
    subject,
    issuer,
    key,
    signer,
    extensions,
    valid,
    serial=0x1234_5678_9ABC,
    version=3,
    algorithm=None,
    inner_algorithm=None,
    in_front=b"",
    signature=None,
):
    algorithm = algorithm or algorithm_of(signer)
    identifier = ALGORITHMS[algorithm][2]
    inner = ALGORITHMS[inner_algorithm or algorithm][2]
    parts = [context(0, integer(version - 1))] if version > 1 else []
    parts += [integer(serial), inner, name(issuer), sequence(*map(time, valid)), name(subject)]
    parts += [key if isinstance(key, bytes) else key.spki, in_front]
    if extensions:
        parts.append(context(3, sequence(*extensions)))
    tbs = sequence(*parts)
    signature = signature or signer.sign(algorithm, tbs)
    return sequence(tbs, identifier, tlv(0x03, b"\x00", signature))


def day(year, month=1, day=15, hour=12):
    return datetime.datetime(year, month, day, hour)
