"""Which sockets of this process and its descendants other machines can reach."""

from __future__ import annotations

import ipaddress
import socket

import psutil


def open_to_others(pid: int | None = None) -> set[str]:
    """Return "program address:port" of everything that listens beyond the loopback address, TCP and UDP.

    pid: of the process whose descendants are looked at, it included; by default this one.
    """
    found = set()
    root = psutil.Process(pid)
    for process in [root, *root.children(recursive=True)]:
        try:
            name = " ".join(process.cmdline())[:120]
            sockets = process.net_connections("inet")
        except psutil.Error:
            # It has ended meanwhile.
            continue
        found |= {
            f"{name} {each.laddr.ip}:{each.laddr.port}"
            for each in sockets
            if each.laddr and _takes_messages(each) and not _is_loopback(each.laddr.ip)
        }
    return found


def _is_loopback(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    # Python 3.11 does not look into ::ffff:127.0.0.1, which gRPC binds.
    return (getattr(parsed, "ipv4_mapped", None) or parsed).is_loopback


def _takes_messages(found: object) -> bool:
    is_udp = getattr(found, "type", None) == socket.SOCK_DGRAM
    return getattr(found, "status", "") == "LISTEN" or (is_udp and not getattr(found, "raddr", ()))
