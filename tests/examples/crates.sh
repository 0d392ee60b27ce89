# The plain way to what examples/crates.toml makes: one crate after the other, one sort.
# Usage: bash crates.sh CARGO_HOME OUT
set -euo pipefail
export LC_ALL=C
cargo_home=$1 out=$2
mkdir -p "$out"

for manifest in "$cargo_home"/registry/src/*/*/Cargo.toml; do
    crate=${manifest%/*}
    licence=$(sed -n 's/^license = "\([^"]*\)".*/\1/p' "$manifest" | sed -n 1p)
    code=$(find "$crate" -type f -name '*.rs' -print0 | xargs -0 -r cat | grep -av $'^[[:blank:]]*\(//\|\r*$\)' || true)
    lines=$(if [ "$code" ]; then wc -l <<< "$code"; else echo 0; fi)
    risky=$(grep -acw unsafe <<< "$code" || true)
    per_1000=$(awk -v lines="$lines" -v risky="$risky" 'BEGIN { printf "%.1f", lines ? 1000 * risky / lines : 0 }')
    printf '%s\t%s\t%d\t%d\t%s\n' "$per_1000" "${crate##*/}" "$lines" "$risky" "${licence:-not said}"
done | sort -t $'\t' -k 1,1nr -k 2,2 > "$out/crates"

awk -F '\t' '
    BEGIN { printf "%11s %9s %7s  %s\n", "unsafe/1000", "lines", "unsafe", "crate" }
    NR <= 25 { printf "%11.1f %9d %7d  %s\n", $1, $3, $4, $2 }
    { lines += $3; risky += $4 }
    END { printf "%11.1f %9d %7d  all %d crates\n", lines ? 1000 * risky / lines : 0, lines, risky, NR }
' "$out/crates" > "$out/unsafe.txt"

awk -F '\t' '
    { crates[$5]++; lines[$5] += $3 }
    END { for (licence in crates) printf "%6d %9d  %s\n", crates[licence], lines[licence], licence }
' "$out/crates" | sort -k 1,1nr -k 2,2nr -k 3 > "$out/licences.txt"

for manifest in "$cargo_home"/registry/src/*/*/Cargo.toml; do
    crate=${manifest%/*}
    cd "$crate/.."
    grep -rnw --include='*.rs' unsafe "${crate##*/}" | sort -t : -k 1,1 -k 2,2n || true
done > "$out/lines.txt"
