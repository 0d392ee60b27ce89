# The plain way to what examples/changelogs.toml makes: one file after the other, one sort.
# Usage: bash changelogs.sh DOCS OUT
set -euo pipefail
export LC_ALL=C
docs=$1 out=$2
mkdir -p "$out"

for file in "$docs"/*/changelog*.gz; do
    zcat "$file" | awk '
        /^[a-z0-9][a-z0-9.+-]* \([^ ()]*\)/ {
            source = $1
            release = substr($2, 2, index($2, ")") - 2)
        }
        /^ -- .*<.*>  / && source != "" {
            name = substr($0, 5, index($0, "<") - 5)
            sub(/ +$/, "", name)
            n = split(substr($0, index($0, ">  ") + 3), date, " ")
            year = "unknown"
            for (i = 1; i <= n; i++) if (date[i] ~ /^(19|20)[0-9][0-9]$/) { year = date[i]; break }
            print source "\t" release "\t" year "\t" name
        }'
done | sort -u > "$out/releases"

cut -f 4 "$out/releases" | sort | uniq -c | sort -k 1,1nr -k 2 | sed -n 1,20p > "$out/maintainers.txt"
cut -f 3 "$out/releases" | sort | uniq -c > "$out/years.txt"
