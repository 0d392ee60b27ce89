"""The most frequent words of many text files: read in blocks, counted by Dask's bag on a cluster of its own.

    python examples/python/words.py [DIRECTORY]

Without a directory: the licences that Debian has, or what lies beside this file.
"""

from __future__ import annotations

import collections
import re
import sys
from pathlib import Path

import dask.bag as db

from hpcdag import Client, LocalCluster

WORD = re.compile(r"[a-z]+")


def words(line: str) -> list[str]:
    """The words of a line, in lower case."""
    return WORD.findall(line.lower())


def main(directory: Path) -> None:
    """Counts the words of all files of a directory, and compares with counting them one by one."""
    files = sorted(str(path) for path in directory.iterdir() if path.is_file())
    with LocalCluster(nworkers=1, nthreads=2) as cluster, Client(cluster):
        lines = db.read_text(files, blocksize="64KiB")
        counts = lines.map(words).flatten().frequencies(split_every=8)
        top = counts.topk(10, key=lambda pair: (pair[1], pair[0])).compute()
    for word, count in top:
        print(f"{count:8} {word}")
    eager = collections.Counter(word for path in files for word in words(Path(path).read_text()))
    assert sorted(top) == sorted(sorted(eager.items(), key=lambda pair: (pair[1], pair[0]))[-10:])
    print("equal to the eager result")


if __name__ == "__main__":
    usual = Path("/usr/share/common-licenses")
    given = Path(sys.argv[1]) if len(sys.argv) > 1 else usual
    main(given if given.is_dir() else Path(__file__).parent)
