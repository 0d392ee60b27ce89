"""Arrays from one worker to another, beside a bare TLS stream of as many bytes in the same minute.

Owns no functions that tasks call by name: workers could not import them.
"""

from __future__ import annotations

import os
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from bench_python import measured

#: What one call writes or reads, bytes.
_PIECE_BYTES = 1 << 20

# The cipher that workers use; Python itself cannot choose among those of TLS 1.3.
_OPENSSL_CONF = """openssl_conf = init
[init]
ssl_conf = ssl
[ssl]
system_default = default
[default]
Ciphersuites = TLS_AES_128_GCM_SHA256
"""

_CIPHER = "TLS_AES_128_GCM_SHA256"


def stream(nbytes: int) -> float:
    """Megabytes per second from one process to another over loopback and TLS, into one buffer."""
    with tempfile.TemporaryDirectory() as directory:
        key, certificate = f"{directory}/key", f"{directory}/certificate"
        made = [
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
        ]
        files = ["-keyout", key, "-out", certificate, "-subj", "/CN=bench"]
        subprocess.run(["openssl", *made, *files], check=True, capture_output=True)
        with open(f"{directory}/openssl.cnf", "w") as file:
            file.write(_OPENSSL_CONF)
        command = [sys.executable, __file__, key, certificate, str(nbytes)]
        env = os.environ | {"OPENSSL_CONF": f"{directory}/openssl.cnf"}
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=env) as sender:
            assert sender.stdout is not None
            return _receive(int(sender.stdout.readline()), nbytes)


def _receive(port: int, nbytes: int) -> float:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with context.wrap_socket(socket.create_connection(("127.0.0.1", port))) as tls:
        cipher = tls.cipher()
        assert cipher and cipher[0] == _CIPHER, cipher
        buffer, left = memoryview(bytearray(_PIECE_BYTES)), nbytes
        begin = time.perf_counter()
        tls.send(b"?")
        while left:
            n = tls.recv_into(buffer)
            assert n, "the stream ended"
            left -= n
        seconds = time.perf_counter() - begin
        tls.send(b".")
        return nbytes / 1e6 / seconds


def _send(key: str, certificate: str, nbytes: int) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0)) as server:
        print(server.getsockname()[1], flush=True)
        with context.wrap_socket(server.accept()[0], server_side=True) as tls:
            buffer, left = memoryview(os.urandom(_PIECE_BYTES)), nbytes
            assert tls.recv(1) == b"?"
            while left:
                left -= tls.send(buffer[:left])
            assert tls.recv(1) == b"."


def move(kind: type, arrays: int, megabytes: int, rounds: int = 3) -> dict[str, float]:
    """Arrays made on one worker and read on another, again and again; the first time is told apart. The bare
    stream is measured before each time."""
    import numpy

    def make(_: int) -> Any:
        return numpy.ones(megabytes * 125_000)

    total = arrays * megabytes
    system = kind(2, 1)
    rows = []
    try:
        client, names = system.client, system.places()

        def read(futures: list[Any]) -> None:
            client.gather(client.map(lambda a: float(a[0]), futures, workers=[names[1]], pure=False))

        read(client.map(make, range(1), workers=[names[0]], pure=False))
        for _ in range(rounds + 1):
            made = client.map(make, range(arrays), workers=[names[0]], pure=False)
            client.gather(client.map(len, made, workers=[names[0]], pure=False))
            bare = stream(total * 1_000_000)
            wall, cpu = measured(lambda made=made: read(made))
            rows.append((total / wall, cpu / total * 1e3, bare))
            del made
            # What was dropped is dropped before the next ones are made.
            client.submit(len, (), workers=[names[0]], pure=False).result()
    finally:
        system.close()
    (first, first_cpu, _), later = rows[0], rows[1:]
    speed, cpu = (statistics.median(row[i] for row in later) for i in (0, 1))
    return {
        "megabytes_per_second": speed,
        "over_bare_tls": statistics.median(row[0] / row[2] for row in later),
        "cpu_ms_per_megabyte": cpu,
        "first_megabytes_per_second": first,
        "first_over_bare_tls": first / rows[0][2],
        "first_cpu_ms_per_megabyte": first_cpu,
        "bare_tls_megabytes_per_second": statistics.median(row[2] for row in rows),
    }


if __name__ == "__main__":
    _send(sys.argv[1], sys.argv[2], int(sys.argv[3]))
