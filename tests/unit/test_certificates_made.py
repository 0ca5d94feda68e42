"""What the authority signs: held against what peers check, and against whoever wants more than is his."""

import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from fleetcli.authority.denying import denied, deny, make_deny_list
from fleetcli.authority.description import describe, named
from fleetcli.authority.issuing import (
    CA_DAYS,
    CLIENT_DAYS,
    Authority,
    make_authority,
    new_key,
    open_authority,
    read_certificate,
    read_key,
)
from fleetcli.authority.new_files import replace, write_new
from fleetcli.authority.pairs import is_made, key_file, make_certificate, make_pair, renew
from fleetcli.authority.refusals import CertificateRefused
from fleetcli.authority.signing_request import requested_key
from fleetcli.authority.subjects import Subject, server_names, subject
from shared.deny_list import serial_text
from shared.identity import Role, grants_of
from tests.handshakes import shake_hands

NOW = datetime(2026, 2, 9, 10, 0, tzinfo=UTC)
A_CHARGER = subject(["meter-1"], ["ev 1"], [])


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authority"), NOW)


def a_certificate(authority: Authority, holder: Subject = A_CHARGER, days: int = CLIENT_DAYS) -> x509.Certificate:
    return authority.client(holder, new_key().public_key(), days, NOW)


def a_pair(authority: Authority, directory: Path, holder: Subject = A_CHARGER) -> Path:
    file = directory / "charger.crt"
    make_pair(authority, file, lambda key: authority.client(holder, key, CLIENT_DAYS, NOW))
    return file


def a_request(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey, *uris: str) -> bytes:
    """A request that asks for all there is."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "operator")])
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name).add_extension(names, critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(Encoding.PEM)


def uris(certificate: x509.Certificate) -> list[str]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def common_names(certificate: x509.Certificate) -> list[str | bytes]:
    return [each.value for each in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]


def accept(authority: Authority, certificate: x509.Certificate, at: datetime) -> None:
    """Verifies a client's certificate as a strict server does. Raises VerificationError."""
    store = Store([authority.certificate])
    PolicyBuilder().store(store).time(at).build_client_verifier().verify(certificate, [])


def test_a_client_is_accepted_from_an_hour_before_until_its_last_day_and_not_longer(authority: Authority) -> None:
    certificate = a_certificate(authority)
    for at in (NOW - timedelta(minutes=59), NOW + timedelta(days=CLIENT_DAYS)):
        accept(authority, certificate, at)
    for at in (NOW - timedelta(minutes=61), NOW + timedelta(days=CLIENT_DAYS, seconds=1)):
        with pytest.raises(VerificationError):
            accept(authority, certificate, at)


def test_a_client_of_another_authority_is_not_accepted(authority: Authority, tmp_path: Path) -> None:
    other = make_authority(tmp_path, NOW)
    with pytest.raises(VerificationError):
        accept(authority, a_certificate(other), NOW)
    assert not authority.has_signed(a_certificate(other))


def test_a_client_has_its_urns_and_nothing_else_that_could_name_or_allow_more(authority: Authority) -> None:
    holder = subject(["DE*ABC*E1"], ["ev 7", "bus-*"], ["reader"])
    certificate = a_certificate(authority, holder)
    assert uris(certificate) == [
        "urn:energyfleet:meter:DE%2AABC%2AE1",
        "urn:energyfleet:vehicle:ev%207",
        "urn:energyfleet:vehicle:bus-*",
        "urn:energyfleet:role:reader",
    ]
    assert common_names(certificate) == ["DE*ABC*E1"]
    assert common_names(a_certificate(authority, Subject("health", ()))) == []
    extensions = certificate.extensions
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    grants = grants_of(uris(certificate))
    assert grants.roles == {Role.READER}
    assert grants.sends_for("vehicle", "bus-12")
    assert not grants.sends_for("meter", "bus-12")


def test_an_authority_signs_no_other_authority_and_outlives_what_it_signs(authority: Authority) -> None:
    constraints = authority.certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)
    assert authority.certificate.not_valid_after_utc == NOW + timedelta(days=CA_DAYS)
    late = NOW + timedelta(days=CA_DAYS - 10)
    with pytest.raises(CertificateRefused, match=r"--days: 90, but the authority in .* expected up to 10 days"):
        authority.client(A_CHARGER, new_key().public_key(), 90, late)


@pytest.mark.parametrize("name", ["localhost", "fleet.example.com", "bay.example.org", "192.0.2.7", "::1"])
def test_a_server_is_accepted_under_each_of_its_names_and_clients_under_none(
    authority: Authority, tmp_path: Path, name: str
) -> None:
    (tmp_path / "ca.crt").write_bytes(authority.certificate.public_bytes(Encoding.PEM))
    names = server_names(["localhost", "FLEET.example.com", "*.example.org", "192.0.2.7", "::1"])
    at = datetime.now(UTC)
    file = tmp_path / "server.crt"
    make_pair(authority, file, lambda key: authority.server(names, key, 10, at))
    shake_hands(tmp_path / "ca.crt", file, name)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(tmp_path / "ca.crt", file, "elsewhere.example.com")
    client = tmp_path / "client.crt"
    make_pair(authority, client, lambda key: authority.client(A_CHARGER, key, 10, at))
    shake_hands(tmp_path / "ca.crt", file, name, client=client)
    with pytest.raises(ssl.SSLError):
        shake_hands(tmp_path / "ca.crt", file, name, client=file)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(tmp_path / "ca.crt", client, name)


@pytest.mark.parametrize(
    "name",
    ["", "a b", "fleet:50051", "[::1]", "300.1.1.1", "-x", "*", "x.*.org", "fe80::1%eth0", "ladesäule.de", "a" * 64],
)
def test_a_server_is_not_named_for_what_no_client_asks_for(name: str) -> None:
    with pytest.raises(CertificateRefused, match=r"^NAME: .* expected a DNS name such as"):
        server_names(["localhost", name])


def test_a_server_name_counts_once() -> None:
    assert server_names(["A.example", "a.EXAMPLE", "::1", "0::1"]) == ["a.example", ip_address("::1")]


def test_everything_that_is_wrong_with_a_subject_is_told_at_once() -> None:
    with pytest.raises(CertificateRefused) as raised:
        subject([" m"], ["ü", "x" * 65], ["root"], "\n")
    fields = [each.partition(":")[0] for each in raised.value.problems]
    assert fields == ["--meter", "--vehicle", "--vehicle", "--role", "--name"]
    assert all("expected" in each for each in raised.value.problems)
    with pytest.raises(CertificateRefused, match="nothing is named"):
        subject([], [], [])


@pytest.mark.parametrize("device_id", ["../../ca", "..", "a/b", "DE*1", "*", "x.key"])
def test_the_files_of_an_id_stay_in_their_directory_and_keep_their_ending(device_id: str) -> None:
    name = f"{subject([device_id], [], []).file_name}.crt"
    assert Path(name).name == name
    assert Path(name).suffix == ".crt"
    assert "*" not in name


def test_a_request_that_names_others_gains_nothing(authority: Authority, tmp_path: Path) -> None:
    key = new_key()
    greedy = a_request(key, "urn:energyfleet:role:operator", "urn:energyfleet:vehicle:*")
    public = requested_key(greedy, "x.csr")
    file = tmp_path / "charger.crt"
    make_certificate(authority, file, public, lambda key: authority.client(A_CHARGER, key, 10, NOW))
    certificate = read_certificate(file)
    assert certificate.public_key() == key.public_key()
    assert uris(certificate) == [*A_CHARGER.urns]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert common_names(certificate) == ["meter-1"]
    assert not key_file(file).exists()


def test_a_request_for_a_key_that_its_maker_does_not_have_is_refused() -> None:
    """Somebody else's public key put into a request: the signature is then not of that key."""
    mine, theirs = new_key(), new_key()
    der = x509.load_pem_x509_csr(a_request(mine)).public_bytes(Encoding.DER)
    points = [key.public_key().public_numbers() for key in (mine, theirs)]
    own, other = (b"".join(n.to_bytes(32, "big") for n in (point.x, point.y)) for point in points)
    assert own in der
    stolen = x509.load_der_x509_csr(der.replace(own, other)).public_bytes(Encoding.PEM)
    with pytest.raises(CertificateRefused, match=r"x\.csr: its signature is not of its own key: expected"):
        requested_key(stolen, "x.csr")


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"-----BEGIN CERTIFICATE REQUEST-----\nMIIB\n-----END CERTIFICATE REQUEST-----\n",
        a_request(rsa.generate_private_key(65_537, 1_024)),
        a_request(ec.generate_private_key(ec.SECP521R1())),
        a_request(ed25519.Ed25519PrivateKey.generate()),
    ],
    ids=["empty", "cut", "rsa-1024", "p-521", "ed25519"],
)
def test_a_request_whose_key_no_service_takes_is_refused(pem: bytes) -> None:
    with pytest.raises(CertificateRefused, match=r"^x\.csr: .* an EC key on P-256 or P-384, or an RSA key"):
        requested_key(pem, "x.csr")


def test_keys_are_their_owners_and_nothing_is_overwritten(authority: Authority, tmp_path: Path) -> None:
    file = a_pair(authority, tmp_path)
    assert key_file(file).stat().st_mode & 0o777 == 0o600
    before = file.read_bytes(), key_file(file).read_bytes()
    with pytest.raises(FileExistsError, match="--force"):
        a_pair(authority, tmp_path)
    with pytest.raises(FileExistsError):
        write_new(file, b"")
    with pytest.raises(FileExistsError):
        make_authority(Path(authority.name), NOW)
    assert (file.read_bytes(), key_file(file).read_bytes()) == before
    make_pair(authority, file, lambda key: authority.client(A_CHARGER, key, 1, NOW), force=True)
    assert file.read_bytes() != before[0]
    assert key_file(file).read_bytes() != before[1]
    assert {each.name for each in tmp_path.iterdir()} == {"charger.crt", "charger.key"}


@pytest.mark.parametrize("write", [write_new, replace])
def test_a_file_that_cannot_be_finished_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path, bytes], None]
) -> None:
    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "x", b"half")
    assert list(tmp_path.iterdir()) == []


def test_a_key_whose_certificate_was_not_finished_gets_it(authority: Authority, tmp_path: Path) -> None:
    def interrupted(_: object) -> x509.Certificate:
        raise KeyboardInterrupt

    file = tmp_path / "charger.crt"
    with pytest.raises(KeyboardInterrupt):
        make_pair(authority, file, interrupted)
    key = key_file(file).read_bytes()
    assert not is_made(authority, file, A_CHARGER)
    a_pair(authority, tmp_path)
    assert key_file(file).read_bytes() == key
    assert is_made(authority, file, A_CHARGER)
    assert read_key(key_file(file)).public_key() == read_certificate(file).public_key()


def test_what_is_there_and_of_another_is_not_taken_for_made(authority: Authority, tmp_path: Path) -> None:
    file = a_pair(authority, tmp_path)
    with pytest.raises(CertificateRefused, match="names something else"):
        is_made(authority, file, subject(["meter-1"], ["ev-2"], []))
    with pytest.raises(CertificateRefused, match="not of the authority"):
        is_made(make_authority(tmp_path / "other", NOW), file, A_CHARGER)
    key_file(file).unlink()
    with pytest.raises(CertificateRefused, match="without its key"):
        is_made(authority, file, A_CHARGER)


def test_an_authority_is_opened_with_its_own_key_only(authority: Authority, tmp_path: Path) -> None:
    with pytest.raises(CertificateRefused, match=r"ca\.crt is not there: expected an authority"):
        open_authority(tmp_path)
    make_authority(tmp_path, NOW)
    (tmp_path / "ca.key").write_bytes((Path(authority.name) / "ca.key").read_bytes())
    with pytest.raises(CertificateRefused, match="not the key of"):
        open_authority(tmp_path)
    file = a_pair(authority, tmp_path)
    (tmp_path / "ca.crt").write_bytes(file.read_bytes())
    (tmp_path / "ca.key").write_bytes(key_file(file).read_bytes())
    with pytest.raises(CertificateRefused, match="not an authority's certificate"):
        open_authority(tmp_path)


def test_a_renewed_certificate_has_the_same_names_for_as_long_and_a_key_of_its_own(
    authority: Authority, tmp_path: Path
) -> None:
    file = a_pair(authority, tmp_path)
    key_file(file).chmod(0o644)  # a container's
    before, key, later = read_certificate(file), key_file(file).read_bytes(), NOW + timedelta(days=60)
    assert renew(authority, file, None, later)
    after = read_certificate(file)
    accept(authority, after, later + timedelta(days=CLIENT_DAYS))
    assert (uris(after), after.subject) == (uris(before), before.subject)
    assert after.serial_number != before.serial_number
    assert key_file(file).read_bytes() != key
    assert read_key(key_file(file)).public_key() == after.public_key()
    assert key_file(file).stat().st_mode & 0o777 == 0o644
    assert renew(authority, file, 5, later)
    assert read_certificate(file).not_valid_after_utc == later + timedelta(days=5)


def test_a_certificate_whose_key_is_elsewhere_is_renewed_for_that_key(authority: Authority, tmp_path: Path) -> None:
    key, file = rsa.generate_private_key(65_537, 2_048), tmp_path / "charger.crt"
    make_certificate(authority, file, key.public_key(), lambda key: authority.client(A_CHARGER, key, 10, NOW))
    assert not renew(authority, file, None, NOW + timedelta(days=20))
    assert read_certificate(file).public_key() == key.public_key()
    assert list(tmp_path.iterdir()) == [file]


def test_a_renewal_that_was_cut_short_is_finished_by_the_next(authority: Authority, tmp_path: Path) -> None:
    file = a_pair(authority, tmp_path)
    a_pair(authority, tmp_path / "other")
    new = key_file(tmp_path / "other" / "charger.crt").read_bytes()
    key_file(file).write_bytes(new)
    renew(authority, file, None, NOW)
    assert key_file(file).read_bytes() == new
    assert read_key(key_file(file)).public_key() == read_certificate(file).public_key()


def test_only_what_this_authority_has_signed_for_a_peer_is_renewed(authority: Authority, tmp_path: Path) -> None:
    other = make_authority(tmp_path / "other", NOW)
    for file, why in ((a_pair(other, tmp_path), "not signed by"), (Path(authority.name) / "ca.crt", "for neither")):
        content = file.read_bytes()
        with pytest.raises(CertificateRefused, match=f"^{file}: it is {why}.* expected"):
            renew(authority, file, None, NOW)
        assert file.read_bytes() == content


def test_the_deny_list_keeps_what_is_in_it_and_has_each_serial_once(authority: Authority, tmp_path: Path) -> None:
    certificate, path = a_certificate(authority), tmp_path / "tls" / "denied"
    assert denied(path) == frozenset()
    assert make_deny_list(path)
    assert not make_deny_list(path)
    path.write_text("# ours\nabc by hand")  # without an end of the line
    serial = serial_text(certificate.serial_number)
    assert deny(path, {serial: named(certificate)}, NOW) == [serial]
    assert deny(path, {serial: named(certificate), "abc": "other"}, NOW) == []
    assert path.read_text() == (
        f"# ours\nabc by hand\n{serial} urn:energyfleet:meter:meter-1 urn:energyfleet:vehicle:ev%201"
        " revoked 2026-02-09T10:00:00Z\n"
    )
    assert denied(path) == {"abc", serial}
    assert path.stat().st_mode & 0o777 == 0o644
    assert describe(certificate, denied(path), NOW).denied


def test_a_name_writes_no_lines_into_the_deny_list_or_the_terminal(authority: Authority, tmp_path: Path) -> None:
    evil = a_certificate(authority, Subject("evil", ("urn:x\n1234 \x1b[2J", "urn:energyfleet:role:root")))
    path = tmp_path / "denied"
    deny(path, {"ab": "urn:x\n1234 y"}, NOW)
    deny(path, {"cd": named(evil)}, NOW)
    assert denied(path) == {"ab", "cd"}
    assert "" not in path.read_text().splitlines()
    described = describe(evil, frozenset(), NOW)
    assert "\x1b" not in "".join([*described.names, *described.allows])
    assert described.allows[0].startswith("nothing, the services refuse it: ")


def test_a_deny_list_that_services_would_not_read_is_not_added_to(tmp_path: Path) -> None:
    path = tmp_path / "denied"
    path.write_text("12:AB:34\n")
    with pytest.raises(CertificateRefused, match=r"line 1: '12:AB:34' .* expected"):
        deny(path, {"ab": "x"}, NOW)
    assert path.read_text() == "12:AB:34\n"


def test_a_description_says_what_each_grant_allows(authority: Authority) -> None:
    holder = subject(["m-1"], ["bus-*"], ["gateway", "operator", "reader"])
    described = describe(a_certificate(authority, holder), frozenset(), NOW + timedelta(days=1))
    assert described.names[:2] == ("meter m-1", "every vehicle whose id begins with bus-")
    assert described.allows[0] == "send readings of meter m-1, every vehicle whose id begins with bus-"
    assert described.allows[1] == "send readings of any device"
    assert (described.kind, described.state, described.days_left, described.denied) == ("client", "valid", 89, False)
    past, early = (describe(a_certificate(authority), frozenset(), NOW + timedelta(days=days)) for days in (91, -1))
    assert (past.state, past.days_left, early.state) == ("expired", -1, "not yet valid")
    assert describe(a_certificate(authority, Subject("health", ())), frozenset(), NOW).allows == (
        "nothing but to look at the services' health",
    )
    assert describe(authority.certificate, frozenset(), NOW).kind == "authority"
