"""Network addresses that a run has no business with: where a cloud hands credentials to whoever asks from its machine.

A config that comes from elsewhere must not make the run fetch them (CVE-2026-24779 and its kind in other software).
"""

from __future__ import annotations

import ipaddress
import socket
import unicodedata
from urllib.parse import urlsplit

# Link-local addresses, and beside them: AWS over IPv6, Alibaba, Azure's host, Oracle.
METADATA_NETWORKS = tuple(
    ipaddress.ip_network(text)
    for text in ("169.254.0.0/16", "100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32", "fe80::/10",
                 "fd00:ec2::/32")
)  # fmt: skip
_METADATA_NAMES = {
    "metadata",
    "metadata.google.internal",
    "metadata.goog",
    "instance-data",
    "instance-data.ec2.internal",
}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_metadata_host(host: str) -> bool:
    """Tell whether a host, as it is written, is a metadata service or another link-local address; nobody is asked."""
    # Clients write other alphabets' digits and full stops as ASCII before they ask (IDNA, UTS 46).
    name = unicodedata.normalize("NFKC", host).replace("\u3002", ".").strip("[]").rstrip(".").lower()
    return name in _METADATA_NAMES or ((address := _as_address(name)) is not None and _is_metadata(address))


def leads_to_metadata(url: str) -> str | None:
    """Return the metadata address that the host of an address is, or that it has by DNS, or None."""
    host = urlsplit(url).hostname or ""
    if is_metadata_host(host):
        return host
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        # What has no address is not reached either.
        return None
    return next((text for text in sorted(found) if is_metadata_host(text.partition("%")[0])), None)


def _as_address(text: str) -> Address | None:
    """Return a written address in any of the forms that a resolver takes: 0xA9FEA9FE and 2852039166 are some."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(text))
    except OSError:
        return None


def _is_metadata(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return _is_metadata(address.ipv4_mapped)
        if address in _NAT64:
            return _is_metadata(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return any(address in network for network in METADATA_NETWORKS)
