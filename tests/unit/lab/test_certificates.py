"""The cluster's certificates: what strict clients ask of them."""

import base64
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from eco_lab.certificates import Authority

NAMES = ("apiserver", "admin", "kube-proxy", "front-proxy-client", "kubelet-server-n1", "kubelet-client-n1")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("pki"), "https://10.79.0.10:6443")
    made.prepare()
    made.prepare_node("n1")
    return made


def load(authority: Authority, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(authority.file(f"{name}.crt").read_bytes())


@pytest.mark.parametrize("name", NAMES)
def test_each_certificate_is_signed_by_its_authority(authority: Authority, name: str) -> None:
    signer = load(authority, "front-proxy-ca" if name == "front-proxy-client" else "ca")
    load(authority, name).verify_directly_issued_by(signer)


@pytest.mark.parametrize("name", NAMES)
def test_each_certificate_names_its_key_and_its_authoritys(authority: Authority, name: str) -> None:
    """Python 3.13 refuses a chain without these."""
    extensions = load(authority, name).extensions
    signer = load(authority, "front-proxy-ca" if name == "front-proxy-client" else "ca")
    mine = signer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier == mine
    assert extensions.get_extension_for_class(x509.SubjectKeyIdentifier)


def test_servers_and_clients_may_not_change_places(authority: Authority) -> None:
    uses = {
        name: load(authority, name).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value for name in NAMES
    }
    assert list(uses["apiserver"]) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert list(uses["admin"]) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_the_api_server_is_known_by_every_name_that_clients_use(authority: Authority) -> None:
    names = load(authority, "apiserver").extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "kubernetes.default.svc" in names.get_values_for_type(x509.DNSName)
    addresses = {str(address) for address in names.get_values_for_type(x509.IPAddress)}
    assert {"10.79.0.10", "10.77.0.1", "127.0.0.1"} <= addresses


def test_keys_are_for_their_owner_only(authority: Authority) -> None:
    keys = list(authority.directory.glob("*.key"))
    assert len(keys) > 8
    assert not [key.name for key in keys if key.stat().st_mode & 0o077]


def test_a_second_time_nothing_is_made_anew(authority: Authority) -> None:
    before = {file.name: file.read_bytes() for file in authority.directory.iterdir()}
    authority.prepare()
    authority.prepare_node("n1")
    assert {file.name: file.read_bytes() for file in authority.directory.iterdir()} == before


def test_a_kubeconfig_holds_all_that_it_takes(authority: Authority, tmp_path: Path) -> None:
    file = authority.write_kubeconfig(tmp_path / "etc" / "admin.kubeconfig", "admin")
    config = yaml.safe_load(file.read_text())
    assert config["clusters"][0]["cluster"]["server"] == "https://10.79.0.10:6443"
    key = base64.b64decode(config["users"][0]["user"]["client-key-data"])
    assert key == authority.file("admin.key").read_bytes()
    assert file.stat().st_mode & 0o077 == 0


def test_what_was_cut_off_while_it_was_written_is_made_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_off = Authority(tmp_path, "https://10.79.0.10:6443")
    with monkeypatch.context() as broken:
        broken.setattr(Path, "replace", _no_room)
        with pytest.raises(OSError, match="No space"):
            cut_off.prepare()
    assert not cut_off.file("ca.crt").exists()
    cut_off.prepare()
    cut_off.write_kubeconfig(tmp_path / "kubeconfig", "admin")
    load(cut_off, "admin").verify_directly_issued_by(load(cut_off, "ca"))
    assert not list(tmp_path.glob("*.new"))


def _no_room(*_: object) -> None:
    raise OSError("No space left on device")
