"""Makes the corpus: chains in cases/, roots in trust/, test keys in keys/, and manifest.json.

    python3 make.py

Keys that exist are kept, and signatures are deterministic: a run changes only what was changed.
It needs `cryptography` 43 or later. What is expected is written
beside each case, from RFC 5280 and the SPIFFE standards; it is not what an implementation said.
"""

import base64
import calendar
import json
import pathlib
import shutil

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from der import *  # noqa: F403

HERE = pathlib.Path(__file__).parent
NOW = day(2027)
LIFE = (day(2027, hour=11), day(2027, day=16, hour=11))
LONG = (day(2026), day(2036))
CART = "spiffe://prod.example/ns/shop/sa/cart"

UNTRUSTED, EXPIRED, INVALID = "peer_untrusted", "peer_expired", "peer_identity_invalid"
WRONG_DOMAIN, UNEXPECTED = "peer_wrong_trust_domain", "peer_unexpected"
CHAIN = "the chain does not lead to a root of its trust domain: "
USAGE = "the certificate is not meant for this: "
SPIFFE = "the URI name is no SPIFFE ID: "
KEY = "the certificate's key is not accepted: "
FORM = "the certificate breaks the rules of its form: "
UNREADABLE = (UNTRUSTED, "the certificate cannot be read")


def rsa_key(size):
    return lambda: rsa.generate_private_key(65537, size)


def curve(kind):
    return lambda: ec.generate_private_key(kind())


ROOT, ISSUER, LEAF = Key("root"), Key("issuer"), Key("leaf")
OTHER_ROOT, NEW_ROOT = Key("other-root"), Key("new-root")
PARTNER_ROOT, PARTNER_ISSUER = Key("partner-root"), Key("partner-issuer")
SECOND = Key("second")
RSA_ISSUER = Key("rsa-issuer", rsa_key(2048))

CA_FORM = [key_usage(KEY_CERT_SIGN, CRL_SIGN)]
LEAF_FORM = [
    basic_constraints(False),
    key_usage(DIGITAL_SIGNATURE),
    extended_key_usage(SERVER_AUTH, CLIENT_AUTH),
]


def authority(subject, key, issuer, signer, path_length=None, valid=LONG, more=(), **rest):
    form = [basic_constraints(True, path_length), *CA_FORM, *more]
    return certificate(
        subject=subject, issuer=issuer, key=key, signer=signer, extensions=form, valid=valid, **rest
    )


def root(subject, key, **rest):
    return authority(subject, key, subject, key, **rest)


def leaf(names=None, form=None, key=LEAF, signer=ISSUER, issuer="prod issuer", valid=LIFE, **rest):
    """`names` is the SAN extension, an identity as text, or None for that of `cart`."""
    if names is None:
        names = CART
    if isinstance(names, str):
        names = alternative_names(uri(names))
    extensions = [*(LEAF_FORM if form is None else form), *([names] if names else [])]
    subject = rest.pop("subject", "shop/cart-0")
    return certificate(
        subject=subject,
        issuer=issuer,
        key=key,
        signer=signer,
        extensions=extensions,
        valid=valid,
        **rest,
    )


PROD = root("prod root", ROOT)
ISSUED = authority("prod issuer", ISSUER, "prod root", ROOT, 0)
PARTNER = root("partner root", PARTNER_ROOT)
PARTNER_ISSUED = authority("partner issuer", PARTNER_ISSUER, "partner root", PARTNER_ROOT, 0)

USUAL = {"prod.example": [PROD], "partner.example": [PARTNER]}
TRUST = {"usual": USUAL}
CASES = []


def case(title, made, chain, *, both=None, caller=None, callee=None, key=LEAF, trust="usual"):
    """`both` sides expect this, or the one that called and the one that was called expect these."""
    assert title not in [known["id"] for known in CASES], title
    text = lambda outcome: "accepted" if outcome is None else dict(zip(("closed", "reason"), outcome))
    CASES.append(
        {
            "id": title,
            "made": made,
            "key": key.title,
            "trust": trust,
            "now": calendar.timegm(NOW.timetuple()),
            "originate": text(caller or both),
            "terminate": text(callee or both),
            "chain": chain,
        }
    )


def one(title, made, certificate, outcome=None, **rest):
    case(title, made, [certificate, ISSUED], both=outcome, **rest)


# --- Accepted: beside every refusal stands what differs from it in that one thing only.

one("good", "as our own authority makes them", leaf())
case("good-without-issuer", "signed by the root itself", [leaf(signer=ROOT, issuer="prod root")])
case("good-with-root", "the root is sent along", [leaf(), ISSUED, PROD])
case("chain-out-of-order", "issuers in the wrong order, as RFC 8446, 4.4.2 allows",
     [leaf(signer=SECOND, issuer="second"), ISSUED,
      authority("second", SECOND, "first", NEW_ROOT),
      authority("first", NEW_ROOT, "prod root", ROOT)])
case("chain-with-a-stranger", "an unrelated issuer is sent along", [leaf(), PARTNER_ISSUED, ISSUED])
case("chain-twice", "the same issuer is sent twice", [leaf(), ISSUED, ISSUED])
case("cross-signed-root", "the issuer's root is new, and signed by the one that is trusted",
     [leaf(signer=SECOND, issuer="second"), authority("second", SECOND, "new root", NEW_ROOT, 0),
      authority("new root", NEW_ROOT, "prod root", ROOT)])
one("no-extended-usage", "without extended key usage, which is optional",
    leaf(form=LEAF_FORM[:2]))
one("no-basic-constraints", "without basic constraints, which is the same as CA:FALSE",
    leaf(form=LEAF_FORM[1:]))
one("usage-not-critical", "key usage is not critical", leaf(
    form=[key_usage(DIGITAL_SIGNATURE, critical=False)]))
one("usage-with-agreement", "key usage also has keyEncipherment and keyAgreement", leaf(
    form=[key_usage(DIGITAL_SIGNATURE, KEY_ENCIPHERMENT, KEY_AGREEMENT)]))
one("dns-beside-uri", "a DNS name beside the URI", leaf(
    alternative_names(dns("cart.prod.example"), uri(CART))))
one("empty-subject", "no subject, and the names critical", leaf(
    alternative_names(uri(CART), critical=True), subject=None))
one("unknown-extension", "an unknown extension that is not critical", leaf(
    form=[*LEAF_FORM, extension("1.3.6.1.4.1.55555.1", b"\x05\x00", False)]))
one("serial-zero", "serial number 0, which RFC 5280, 4.1.2.2 asks to bear", leaf(serial=0))
one("serial-negative", "serial number -5, which RFC 5280, 4.1.2.2 asks to bear", leaf(serial=-5))
one("serial-long", "a serial number of 40 bytes", leaf(serial=b"\x11" * 40))
one("valid-for-ever", "valid to the year 9999 (RFC 5280, 4.1.2.5)", leaf(
    valid=(LIFE[0], datetime.datetime(9999, 12, 31, 23, 59, 59))))
one("valid-to-the-second", "not after is now", leaf(valid=(LIFE[0], NOW)))
one("valid-from-the-second", "not before is now", leaf(valid=(NOW, LIFE[1])))
for title, kind in [
    ("p384", curve(ec.SECP384R1)), ("rsa-2048", rsa_key(2048)), ("ed25519", ed25519.Ed25519PrivateKey.generate),
]:
    key = Key(title, kind)
    one(f"key-{title}", "another kind of key that is good", leaf(key=key), key=key)
case("issuer-rsa-2048", "the issuer has an RSA key",
     [leaf(signer=RSA_ISSUER), authority("prod issuer", RSA_ISSUER, "prod root", ROOT, 0)])
one("longest-identity", "an identity of 2,048 bytes",
    leaf(CART + "/" + "x" * (2048 - len(CART) - 1)),
    caller=(UNEXPECTED, f"expected {CART}, met {CART}/" + "x" * (2048 - len(CART) - 1)))
case("long-chain", "five issuers, one below the other", [
    leaf(signer=Key("chain-5"), issuer="chain 5"),
    *[authority(f"chain {n}", Key(f"chain-{n}"), f"chain {n - 1}" if n > 1 else "prod root",
                Key(f"chain-{n - 1}") if n > 1 else ROOT) for n in range(5, 0, -1)]])

# --- Time.

EXPIRED_TEXT, EARLY_TEXT = "the certificate has expired", "the certificate is not valid yet"
one("expired", "expired a second ago",
    leaf(valid=(LIFE[0], NOW - datetime.timedelta(seconds=1))), (EXPIRED, EXPIRED_TEXT))
one("expired-long-ago", "expired ten years ago",
    leaf(valid=(day(2016), day(2017))), (EXPIRED, EXPIRED_TEXT))
one("not-yet-valid", "valid in a second",
    leaf(valid=(NOW + datetime.timedelta(seconds=1), LIFE[1])), (EXPIRED, EARLY_TEXT))
one("upside-down", "not after is before not before", leaf(valid=(LIFE[1], LIFE[0])),
    (UNTRUSTED, CHAIN + "InvalidCertValidity"))
case("issuer-expired", "the issuer has expired",
     [leaf(), authority("prod issuer", ISSUER, "prod root", ROOT, 0, (day(2026), day(2026, 12)))],
     both=(EXPIRED, EXPIRED_TEXT))
case("issuer-not-yet-valid", "the issuer is not valid yet",
     [leaf(), authority("prod issuer", ISSUER, "prod root", ROOT, 0, (day(2028), day(2029)))],
     both=(EXPIRED, EARLY_TEXT))
TRUST["expired-root"] = {"prod.example": [root("prod root", ROOT, valid=(day(2020), day(2026)))]}
one("root-expired", "the root has expired", leaf(), trust="expired-root",
    outcome=(EXPIRED, "the root of the chain is out of its time"))
TRUST["future-root"] = {"prod.example": [root("prod root", ROOT, valid=(day(2028), day(2036)))]}
one("root-not-yet-valid", "the root is not valid yet", leaf(), trust="future-root",
    outcome=(EXPIRED, "the root of the chain is out of its time"))
TRUST["renewed-root"] = {"prod.example": [TRUST["expired-root"]["prod.example"][0], PROD]}
one("root-renewed", "the root has expired, and was made again with the same key", leaf(),
    trust="renewed-root")

# --- Trust domains.

UNKNOWN_ISSUER = (UNTRUSTED, CHAIN + "UnknownIssuer")
BAD_SIGNATURE = (UNTRUSTED, CHAIN + "InvalidSignatureForPublicKey")
case("other-root", "another root and issuer of the same names",
     [leaf(signer=SECOND), authority("prod issuer", SECOND, "prod root", OTHER_ROOT, 0)],
     both=BAD_SIGNATURE)
case("other-root-along", "another root of the same name, sent along",
     [leaf(signer=SECOND), authority("prod issuer", SECOND, "prod root", OTHER_ROOT, 0),
      root("prod root", OTHER_ROOT)],
     both=BAD_SIGNATURE)
case("self-signed", "signed by its own key", [leaf(signer=LEAF, issuer="shop/cart-0")],
     both=UNKNOWN_ISSUER)
case("no-issuer", "the issuer is not sent", [leaf()], both=UNKNOWN_ISSUER)
partner = dict(signer=PARTNER_ISSUER, issuer="partner issuer")
PARTNER_CART = "spiffe://partner.example/ns/shop/sa/cart"
case("partner", "of the other domain that is trusted", [leaf(PARTNER_CART, **partner), PARTNER_ISSUED],
     caller=(UNEXPECTED, f"expected {CART}, met {PARTNER_CART}"))
case("partner-speaks-for-us", "our identity, signed by the other domain that is trusted",
     [leaf(**partner), PARTNER_ISSUED], both=UNKNOWN_ISSUER)
one("we-speak-for-partner", "an identity of the other domain, signed by ours", leaf(PARTNER_CART),
    UNKNOWN_ISSUER)
for title, made, domain in [
    ("domain-unknown", "a domain that nobody knows", "evil.example"),
    ("domain-prefixed", "our domain with something in front", "xprod.example"),
    ("domain-below", "a domain below ours", "a.prod.example"),
    ("domain-suffixed", "our domain with something behind", "prod.example.evil"),
    ("domain-parent", "the domain above ours", "example"),
    ("domain-trailing-dot", "our domain with the dot of DNS", "prod.example."),
    ("domain-underscore", "a look-alike of allowed characters", "prod_example"),
    ("domain-digit", "a digit for a letter", "pr0d.example"),
]:
    one(title, made, leaf(f"spiffe://{domain}/ns/shop/sa/cart"),
        (WRONG_DOMAIN, f"the trust domain {domain} is not trusted"))
ONLY = "the trust domain may hold only a-z, 0-9, '.', '-' and '_'"
for title, made, domain in [
    ("domain-case", "our domain in capitals", "PROD.example"),
    ("domain-one-capital", "our domain with one capital", "prod.eXample"),
    ("domain-port", "our domain with a port", "prod.example:443"),
    ("domain-user", "our domain with user information", "user@prod.example"),
    ("domain-percent", "our domain percent-encoded", "prod%2eexample"),
    ("domain-query", "a query right after the domain", "prod.example?"),
    ("domain-backslash", "a backslash after the domain", "prod.example\\"),
    ("domain-nul", "a NUL in the domain", "prod.example\0.evil"),
    ("domain-space", "a space after the domain", "prod.example "),
    ("domain-newline", "a line break after the domain", "prod.example\n"),
    ("domain-ipv6", "an IPv6 address", "[::1]"),
]:
    one(title, made, leaf(f"spiffe://{domain}/ns/shop/sa/cart"), (INVALID, SPIFFE + ONLY))
one("domain-homoglyph", "a Cyrillic o for a Latin one, in UTF-8",
    leaf("spiffe://pr\u043ed.example/ns/shop/sa/cart"), (INVALID, SPIFFE + ONLY))
one("domain-punycode", "a Cyrillic o in the form of IDNA",
    leaf("spiffe://xn--prd-hmc.example/ns/shop/sa/cart"),
    (WRONG_DOMAIN, "the trust domain xn--prd-hmc.example is not trusted"))
one("domain-empty", "no domain", leaf("spiffe:///ns/shop/sa/cart"),
    (INVALID, SPIFFE + "the trust domain is empty"))
one("domain-long", "a domain of 256 bytes", leaf(f"spiffe://{'a' * 256}/ns/shop/sa/cart"),
    (INVALID, SPIFFE + "the trust domain is longer than 255 bytes"))

# --- Where the identity stands, and how many there are.


def count(number):
    return INVALID, f"the certificate has {number} URI names instead of one"


WEB = "spiffe://prod.example/ns/shop/sa/web"
one("no-names", "no subject alternative names at all", leaf(False), count(0))
one("no-uri", "names, but no URI", leaf(alternative_names(dns("prod.example"))), count(0))
one("identity-in-dns", "the identity as a DNS name", leaf(alternative_names(dns(CART))), count(0))
one("identity-in-email", "the identity as an e-mail address", leaf(alternative_names(email(CART))),
    count(0))
one("identity-in-common-name", "the identity as the common name", leaf(False, subject=CART), count(0))
one("identity-in-directory-name", "the identity in a directory name",
    leaf(alternative_names(directory_name(CART))), count(0))
one("identity-in-other-name", "the identity as an otherName",
    leaf(alternative_names(other_name("1.3.6.1.4.1.55555.2", tlv(0x0C, CART.encode())))), count(0))
one("identity-in-issuer-names", "the identity in the issuer's alternative names",
    leaf(False, form=[*LEAF_FORM, extension("2.5.29.18", sequence(uri(CART)), False)]), count(0))
one("two-identities", "two identities, the expected one first",
    leaf(alternative_names(uri(CART), uri(WEB))), count(2))
one("two-identities-reversed", "two identities, the expected one last",
    leaf(alternative_names(uri(WEB), uri(CART))), count(2))
one("same-identity-twice", "the same identity twice", leaf(alternative_names(uri(CART), uri(CART))),
    count(2))
one("url-and-identity", "another URI before the identity",
    leaf(alternative_names(uri("https://prod.example/"), uri(CART))), count(2))
one("identity-and-url", "another URI after the identity",
    leaf(alternative_names(uri(CART), uri("https://prod.example/"))), count(2))
one("identity-and-not-ascii", "another URI with a byte that an IA5String cannot hold",
    leaf(alternative_names(uri(CART), uri(b"spiffe://prod.example/\xff"))), UNREADABLE)
one("not-ascii-and-identity", "another URI with a byte that an IA5String cannot hold, first",
    leaf(alternative_names(uri(b"spiffe://prod.example/\xff"), uri(CART))), UNREADABLE)
one("names-twice", "two extensions with an identity each",
    leaf(form=[*LEAF_FORM, alternative_names(uri(WEB))]),
    (UNTRUSTED, FORM + "it has an extension twice"))
one("names-empty", "an empty list of names", leaf(alternative_names()), count(0))
one("names-unreadable", "alternative names that are no list",
    leaf(extension("2.5.29.17", b"\x04\x03abc", False)), UNREADABLE)
one("other-identity", "a good identity that is not the expected one", leaf(WEB),
    caller=(UNEXPECTED, f"expected {CART}, met {WEB}"))

for title, path in [("controller", "/martlet/controller"), ("node", "/martlet/node/one"), ("other", "/martlet/x")]:
    name = "spiffe://prod.example" + path
    one(f"reserved-{title}", "an identity of the control plane, which lanes do not believe", leaf(name),
        (INVALID, name + " belongs to a part of Martlet itself, which is no workload"))
for title, path in [("look-alike", "/martlets/controller"), ("without-slash", "/martlet")]:
    name = "spiffe://prod.example" + path
    one(f"not-reserved-{title}", "an identity that is not reserved", leaf(name),
        caller=(UNEXPECTED, f"expected {CART}, met {name}"))

# --- The path.

EMPTY, DOTS = "a path segment is empty", "a path segment is '.' or '..'"
SEGMENT = "a path segment may hold only a-z, A-Z, 0-9, '.', '-' and '_'"
NO_PATH = "a workload's identity needs a path"
for title, text, reason in [
    ("path-none", "spiffe://prod.example", NO_PATH),
    ("path-root", "spiffe://prod.example/", NO_PATH),
    ("path-double-slash", "spiffe://prod.example//ns/shop/sa/cart", EMPTY),
    ("path-inner-double-slash", "spiffe://prod.example/ns//shop/sa/cart", EMPTY),
    ("path-trailing-slash", CART + "/", EMPTY),
    ("path-dot", "spiffe://prod.example/ns/./shop/sa/cart", DOTS),
    ("path-dots", "spiffe://prod.example/ns/x/../shop/sa/cart", DOTS),
    ("path-dots-at-the-end", CART + "/..", DOTS),
    ("path-percent", "spiffe://prod.example/ns/shop/sa/c%61rt", SEGMENT),
    ("path-percent-slash", "spiffe://prod.example/ns/shop%2fsa/cart", SEGMENT),
    ("path-percent-dots", "spiffe://prod.example/ns/%2e%2e/sa/cart", SEGMENT),
    ("path-nul", CART + "\0", SEGMENT),
    ("path-nul-inside", "spiffe://prod.example/ns/shop/sa/cart\0.evil", SEGMENT),
    ("path-query", CART + "?", SEGMENT),
    ("path-query-with-value", CART + "?a=b", SEGMENT),
    ("path-fragment", CART + "#a", SEGMENT),
    ("path-space", CART + " ", SEGMENT),
    ("path-newline", CART + "\n", SEGMENT),
    ("path-tab", "spiffe://prod.example/ns/shop/sa/\tcart", SEGMENT),
    ("path-backslash", "spiffe://prod.example/ns\\shop/sa/cart", SEGMENT),
    ("path-semicolon", CART + ";v=1", SEGMENT),
    ("path-tilde", "spiffe://prod.example/ns/shop/sa/~cart", SEGMENT),
    ("path-colon", "spiffe://prod.example/ns/shop:sa/cart", SEGMENT),
    ("scheme-capitals", "SPIFFE" + CART[6:], "a SPIFFE ID starts with spiffe://"),
    ("scheme-other", "https" + CART[6:], "a SPIFFE ID starts with spiffe://"),
    ("scheme-none", CART[9:], "a SPIFFE ID starts with spiffe://"),
    ("scheme-one-slash", "spiffe:/" + CART[9:], "a SPIFFE ID starts with spiffe://"),
    ("scheme-space", " " + CART, "a SPIFFE ID starts with spiffe://"),
    ("identity-empty", "", "a SPIFFE ID starts with spiffe://"),
    ("identity-too-long", CART + "/" + "x" * (2048 - len(CART)),
     "the identity is longer than 2048 bytes"),
]:
    one(title, "an identity as in the title", leaf(text), (INVALID, SPIFFE + reason))
one("path-not-ascii", "a letter with two dots, in UTF-8", leaf(CART[:-4] + "c\u00e4rt"),
    (INVALID, SPIFFE + SEGMENT))
one("path-not-unicode", "a byte that is no UTF-8", leaf(alternative_names(uri(CART.encode() + b"\xe4"))),
    UNREADABLE)
one("path-capitals", "the expected path in capitals, which is another identity",
    leaf("spiffe://prod.example/NS/SHOP/SA/CART"),
    caller=(UNEXPECTED, f"expected {CART}, met spiffe://prod.example/NS/SHOP/SA/CART"))
one("path-longer", "the expected identity as a prefix", leaf(CART + "/a"),
    caller=(UNEXPECTED, f"expected {CART}, met {CART}/a"))
one("path-shorter", "a prefix of the expected identity", leaf(CART[:-1]),
    caller=(UNEXPECTED, f"expected {CART}, met {CART[:-1]}"))

# --- Constraints and usage.

AUTHORITY = (UNTRUSTED, USAGE + "it is an authority's")
NOT_SIGNING = (UNTRUSTED, USAGE + "its key is not for signatures")
SIGNING = (UNTRUSTED, USAGE + "its key is for signing certificates")
one("leaf-is-authority", "CA:TRUE", leaf(form=[basic_constraints(True), *LEAF_FORM[1:]]), AUTHORITY)
one("leaf-is-authority-not-critical", "CA:TRUE, not critical",
    leaf(form=[basic_constraints(True, critical=False), *LEAF_FORM[1:]]), AUTHORITY)
case("issuer-as-leaf", "an issuer that has an identity",
     [authority("prod issuer", LEAF, "prod root", ROOT, 0, more=[alternative_names(uri(CART))])],
     both=AUTHORITY)
one("usage-missing", "no key usage", leaf(form=[LEAF_FORM[0], LEAF_FORM[2]]),
    (UNTRUSTED, USAGE + "it does not say what its key is for"))
one("usage-empty", "key usage without any", leaf(form=[key_usage()]), NOT_SIGNING)
one("usage-agreement-only", "key usage is keyAgreement only", leaf(form=[key_usage(KEY_AGREEMENT)]),
    NOT_SIGNING)
one("usage-without-signature", "key usage is keyEncipherment only",
    leaf(form=[key_usage(KEY_ENCIPHERMENT)]), NOT_SIGNING)
one("usage-signs-certificates", "key usage also has keyCertSign",
    leaf(form=[LEAF_FORM[0], key_usage(DIGITAL_SIGNATURE, KEY_CERT_SIGN)]), SIGNING)
one("usage-signs-lists", "key usage also has cRLSign",
    leaf(form=[LEAF_FORM[0], key_usage(DIGITAL_SIGNATURE, CRL_SIGN)]), SIGNING)
one("usage-twice", "two extensions of key usage",
    leaf(form=[key_usage(DIGITAL_SIGNATURE), key_usage(DIGITAL_SIGNATURE)]),
    (UNTRUSTED, FORM + "it has an extension twice"))
one("unknown-extension-twice", "an unknown extension twice",
    leaf(form=[*LEAF_FORM, *[extension("1.3.6.1.4.1.55555.1", b"\x05\x00", False)] * 2]),
    (UNTRUSTED, FORM + "it has an extension twice"))
PURPOSE = (UNTRUSTED, USAGE + "its extended key usage does not have this side")
one("extended-usage-code", "extended key usage is code signing",
    leaf(form=[*LEAF_FORM[:2], extended_key_usage(CODE_SIGNING)]), PURPOSE)
one("extended-usage-any", "extended key usage is any, and neither of the two",
    leaf(form=[*LEAF_FORM[:2], extended_key_usage(ANY_USAGE)]), PURPOSE)
one("extended-usage-server", "extended key usage has the server's side only",
    leaf(form=[*LEAF_FORM[:2], extended_key_usage(SERVER_AUTH)]), callee=PURPOSE)
one("extended-usage-client", "extended key usage has the client's side only",
    leaf(form=[*LEAF_FORM[:2], extended_key_usage(CLIENT_AUTH)]), caller=PURPOSE)
one("unknown-critical-extension", "an unknown extension that is critical",
    leaf(form=[*LEAF_FORM, extension("1.3.6.1.4.1.55555.1", b"\x05\x00", True)]),
    (UNTRUSTED, CHAIN + "UnsupportedCriticalExtension"))

# --- Keys and signatures.

WEAK_RSA = (UNTRUSTED, KEY + "RSA of less than 2048 bits")
CURVE = (UNTRUSTED, KEY + "an elliptic curve other than P-256, P-384 and P-521")
for title, kind, outcome in [
    ("rsa-1024", rsa_key(1024), WEAK_RSA),
    ("p192", curve(ec.SECP192R1), CURVE),
    ("p224", curve(ec.SECP224R1), CURVE),
    ("secp256k1", curve(ec.SECP256K1), CURVE),
    ("brainpool", curve(ec.BrainpoolP256R1), CURVE),
]:
    one(f"key-{title}", "a key that is weak or unusual", leaf(key=Key(title, kind)), outcome)
one("key-unknown", "a key of an unknown algorithm",
    leaf(key=sequence(sequence(oid("1.3.6.1.4.1.55555.3")), tlv(0x03, b"\x00" + b"\x01" * 32))),
    (UNTRUSTED, KEY + "an unknown kind"))
one("key-broken", "a P-256 key that is no point",
    leaf(key=sequence(sequence(oid("1.2.840.10045.2.1"), oid("1.2.840.10045.3.1.7")),
                      tlv(0x03, b"\x00\x04" + b"\xff" * 64))),
    (UNTRUSTED, CHAIN + "BadSignature"))
UNSUPPORTED = (UNTRUSTED, CHAIN + "UnsupportedSignatureAlgorithm")
RSA_ISSUED = authority("prod issuer", RSA_ISSUER, "prod root", ROOT, 0)
case("signature-sha1", "signed with RSA and SHA-1",
     [leaf(signer=RSA_ISSUER, algorithm="rsa-sha1"), RSA_ISSUED], both=UNSUPPORTED)
case("signature-md5", "signed with RSA and MD5",
     [leaf(signer=RSA_ISSUER, algorithm="rsa-md5"), RSA_ISSUED], both=UNSUPPORTED)
one("signature-ecdsa-sha1", "signed with ECDSA and SHA-1", leaf(algorithm="ecdsa-sha1"), UNSUPPORTED)
case("issuer-sha1", "the issuer is signed with SHA-1",
     [leaf(), authority("prod issuer", ISSUER, "prod root", ROOT, 0, algorithm="ecdsa-sha1")],
     both=UNSUPPORTED)
WEAK_ISSUER = Key("rsa-1024-issuer", rsa_key(1024))
case("issuer-rsa-1024", "the issuer has an RSA key of 1024 bits",
     [leaf(signer=WEAK_ISSUER), authority("prod issuer", WEAK_ISSUER, "prod root", ROOT, 0)],
     both=BAD_SIGNATURE)
one("signature-broken", "the signature is of other bytes", leaf(signature=ISSUER.sign("ecdsa-sha256", b"x")),
    BAD_SIGNATURE)
one("signature-empty", "the signature is empty", leaf(signature=b"\x30\x00"), BAD_SIGNATURE)
one("signature-zeros", "the signature is of zeros",
    leaf(signature=sequence(integer(0), integer(0))), BAD_SIGNATURE)
one("signature-of-another-kind", "the two fields for the algorithm differ",
    leaf(inner_algorithm="ecdsa-sha384"),
    (UNTRUSTED, CHAIN + "SignatureAlgorithmMismatch"))

# --- Chains.

case("signed-by-leaf", "signed by a leaf that is good itself",
     [leaf(signer=SECOND, issuer="shop/web-0"), leaf(WEB, key=SECOND, subject="shop/web-0"), ISSUED],
     both=(UNTRUSTED, CHAIN + "EndEntityUsedAsCa"))
case("signed-by-own-key-below-itself", "signed by its own key, whose good certificate is sent along",
     [leaf(WEB, signer=LEAF, issuer="shop/cart-0"), leaf(), ISSUED], both=UNKNOWN_ISSUER)
case("issuer-without-constraints", "the issuer has no basic constraints",
     [leaf(), certificate(subject="prod issuer", issuer="prod root", key=ISSUER, signer=ROOT,
                          extensions=CA_FORM, valid=LONG)],
     both=(UNTRUSTED, CHAIN + "EndEntityUsedAsCa"))
case("issuer-may-not-sign", "the issuer's key usage does not have keyCertSign",
     [leaf(), certificate(subject="prod issuer", issuer="prod root", key=ISSUER, signer=ROOT,
                          extensions=[basic_constraints(True, 0), key_usage(DIGITAL_SIGNATURE)],
                          valid=LONG)],
     both=(UNTRUSTED, CHAIN + "the key of an issuer is not for signing certificates"))
case("issuer-usage-missing", "the issuer has no key usage",
     [leaf(), certificate(subject="prod issuer", issuer="prod root", key=ISSUER, signer=ROOT,
                          extensions=[basic_constraints(True, 0)], valid=LONG)],
     both=(UNTRUSTED, CHAIN + "the key of an issuer is not for signing certificates"))
case("path-length", "an issuer below one that may have none",
     [leaf(signer=SECOND, issuer="second"), authority("second", SECOND, "prod issuer", ISSUER), ISSUED],
     both=(UNTRUSTED, CHAIN + "PathLenConstraintViolated"))
TRUST["short-root"] = {"prod.example": [root("prod root", ROOT, path_length=0)]}
one("path-length-of-the-root", "an issuer below a root that may have none", leaf(), trust="short-root",
    outcome=(UNTRUSTED, CHAIN + "PathLenConstraintViolated"))
case("path-length-of-the-root-kept", "a leaf right below a root that may have no issuer",
     [leaf(signer=ROOT, issuer="prod root")], trust="short-root")
case("longer-chain", "eight issuers, one below the other", [
    leaf(signer=Key("chain-8"), issuer="chain 8"),
    *[authority(f"chain {n}", Key(f"chain-{n}"), f"chain {n - 1}" if n > 1 else "prod root",
                Key(f"chain-{n - 1}") if n > 1 else ROOT) for n in range(8, 0, -1)]],
     both=(UNTRUSTED, CHAIN + "MaximumPathDepthExceeded"))
case("loop", "two issuers that have signed each other",
     [leaf(signer=SECOND, issuer="second"), authority("second", SECOND, "third", NEW_ROOT),
      authority("third", NEW_ROOT, "second", SECOND)],
     both=UNKNOWN_ISSUER)
case("maze", "sixty issuers of one name and key, of whom none leads to the root",
     [leaf(signer=SECOND, issuer="second"),
      *[authority("second", SECOND, "second", NEW_ROOT, serial=n) for n in range(60)]],
     both=UNKNOWN_ISSUER)
case("issuer-first", "the issuer stands where the leaf belongs", [ISSUED, leaf()], both=AUTHORITY)
case("root-as-leaf", "the root itself", [PROD], both=AUTHORITY)
constrained = lambda **form: authority(
    "prod issuer", ISSUER, "prod root", ROOT, 0, more=[name_constraints(**form)])
VIOLATION = (UNTRUSTED, CHAIN + "NameConstraintViolation")
case("constraint-violated", "the issuer is constrained to another domain",
     [leaf(), constrained(permitted=[uri("partner.example")])], both=VIOLATION)
case("constraint-excludes", "the issuer may not speak for this domain",
     [leaf(), constrained(excluded=[uri("prod.example")])], both=VIOLATION)
case("constraint-on-uri-kept", "the issuer is constrained to this domain; refused, as constraints on "
     "URIs are not evaluated", [leaf(), constrained(permitted=[uri("prod.example")])], both=VIOLATION)
case("constraint-on-dns", "the issuer is constrained to DNS names that the leaf does not have",
     [leaf(), constrained(permitted=[dns("prod.example")])])
case("constraint-on-dns-violated", "the issuer is constrained to other DNS names",
     [leaf(alternative_names(uri(CART), dns("a.evil.example"))), constrained(permitted=[dns("prod.example")])],
     both=VIOLATION)
case("issuer-critical-extension", "the issuer has an unknown extension that is critical",
     [leaf(), authority("prod issuer", ISSUER, "prod root", ROOT, 0,
                        more=[extension("1.3.6.1.4.1.55555.1", b"\x05\x00", True)])],
     both=(UNTRUSTED, CHAIN + "UnsupportedCriticalExtension"))

# --- Bytes.

good = leaf()
VERSION = (UNTRUSTED, CHAIN + "UnsupportedCertVersion")
one("version-1", "version 1, and so without extensions", leaf(False, form=[], version=1), count(0))
one("version-1-with-extensions", "version 1 with extensions all the same", leaf(version=1), VERSION)
one("version-2", "version 2", leaf(version=2), VERSION)
one("version-4", "version 4", leaf(version=4), VERSION)
case("issuer-version-1", "the issuer is of version 1",
     [leaf(), certificate(subject="prod issuer", issuer="prod root", key=ISSUER, signer=ROOT,
                          extensions=[], valid=LONG, version=1)], both=VERSION)
one("unique-identifier", "an issuer's unique identifier, which nobody uses",
    leaf(in_front=context(1, b"\x00\x01", constructed=False)), (UNTRUSTED, CHAIN + "TrailingData(CertificateExtensions)"))
one("trailing-byte", "a byte after the certificate", good + b"\x00", UNREADABLE)
one("two-in-one", "two certificates in one", good + good, UNREADABLE)
one("truncated", "the last byte is missing", good[:-1], UNREADABLE)
one("half", "the second half is missing", good[: len(good) // 2], UNREADABLE)
one("indefinite-length", "an indefinite length, which is BER", b"\x30\x80" + good[4:] + b"\x00\x00",
    UNREADABLE)
one("length-too-large", "a length of 4 GiB", b"\x30\x84\xff\xff\xff\xff" + good[4:], UNREADABLE)
one("one-byte", "a single byte", b"\x30", UNREADABLE)
one("text", "text instead of a certificate", b"-----BEGIN CERTIFICATE-----\n", UNREADABLE)
one("zeros", "a thousand zeros", b"\x00" * 1000, UNREADABLE)
one("nested", "thirty thousand opened brackets", b"\x30\x80" * 15_000, UNREADABLE)
case("issuer-trailing-byte", "a byte after the issuer", [good, ISSUED + b"\x00"],
     both=(UNTRUSTED, CHAIN + "TrailingData(Certificate)"))
case("issuer-broken", "the issuer cannot be read", [good, b"\x30\x03\x02\x01\x00"],
     both=(UNTRUSTED, CHAIN + "BadDer"))
padded = lambda size: leaf(
    form=[*LEAF_FORM, extension("1.3.6.1.4.1.55555.1", b"\x04" * size, False)])
one("large", "an extension of 30,000 bytes", padded(30_000))
one("larger-than-a-handshake", "an extension of 70,000 bytes", padded(70_000),
    ("handshake_failed", "received corrupt message of type HandshakePayloadTooLarge"))

# --- Files.


def pem(certificates):
    blocks = []
    for der in certificates:
        text = base64.encodebytes(der).decode().replace("\n", "")
        lines = "\n".join(text[at : at + 64] for at in range(0, len(text), 64))
        blocks.append(f"-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n")
    return "".join(blocks)


def write():
    for directory in ("cases", "trust"):
        shutil.rmtree(HERE / directory, ignore_errors=True)
    (HERE / "cases").mkdir()
    for known in CASES:
        (HERE / "cases" / f"{known['id']}.pem").write_text(pem(known.pop("chain")))
    for title, domains in TRUST.items():
        (HERE / "trust" / title).mkdir(parents=True)
        for domain, roots in domains.items():
            (HERE / "trust" / title / f"{domain}.pem").write_text(pem(roots))
    manifest = {"expected": CART, "cases": CASES}
    (HERE / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    print(len(CASES), "cases")


write()
