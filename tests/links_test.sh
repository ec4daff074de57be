#!/usr/bin/env bash
# Fails on a relative link of a Markdown page that leads nowhere: a file that is missing, or a heading
# ("page.md#heading") that its page does not have. Links to other hosts are not followed.
set -euo pipefail

root=${KEXEC_SIM_ROOT:-$(cd "$(dirname "$0")/.." && pwd)}

# pages TREE: the Markdown files that belong to the repository.
pages() {
    find "$1" \( -name build -o -name .git \) -prune -o -type f -name '*.md' -print0 | LC_ALL=C sort -z
}

# prose FILE: the page without its code blocks and inline code, which show links but are none.
prose() {
    # shellcheck disable=SC2016  # a back-quote in a pattern
    awk '/^[[:space:]]*```/ { code = !code; print ""; next } { print code ? "" : $0 }' "$1" | sed -E 's/`[^`]*`//g'
}

# links FILE: each link, as LINE:TARGET.
links() {
    prose "$1" | { grep -noE '\]\([^)[:space:]]+|(src|href)="[^"]+|^\[[^]]+\]:[[:space:]]*[^[:space:]]+' || true; } |
        sed -E 's/^([0-9]+):(\]\(|(src|href)="|\[[^]]+\]:[[:space:]]*)/\1:/'
}

# anchors FILE: the names that its headings get: lower case, punctuation dropped, blanks to hyphens.
anchors() {
    awk '/^[[:space:]]*```/ { code = !code } !code && /^#+ / { sub(/^#+ +/, ""); print }' "$1" |
        tr '[:upper:]' '[:lower:]' | sed -E 's/[^[:alnum:] _-]//g; s/ /-/g'
    { grep -oE '<a (id|name)="[^"]+' "$1" || true; } | sed -E 's/.*"//'
}

# check_tree TREE: prints every broken link as FILE:LINE; returns 1 if there is one.
check_tree() {
    local tree=$1 page link target file anchor bad=0
    while IFS= read -r -d '' page; do
        while IFS= read -r link; do
            target=${link#*:}
            case $target in
                http://* | https://* | mailto:*) continue ;;
            esac
            anchor=""
            [[ $target == *#* ]] && anchor=${target#*#}
            target=${target%%#*}
            file=$page
            [[ -n $target ]] && file=$(dirname "$page")/$target
            if [[ ! -e $file ]]; then
                echo "${page#"$tree"/}:${link%%:*}: '$target' does not exist"
                bad=1
            # Not grep -q: it leaves at the first match, and what anchors() prints then has no reader.
            elif [[ -n $anchor && $file == *.md ]] && ! anchors "$file" | grep -xF -- "$anchor" >/dev/null; then
                echo "${page#"$tree"/}:${link%%:*}: '$target' has no heading '#$anchor'"
                bad=1
            fi
        done < <(links "$page")
    done < <(pages "$tree")
    return "$bad"
}

# ---- the check itself ----

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# try_page LINE VERDICT
try_page() {
    local found=good
    printf '# A page, with: punctuation\n\n%s\n' "$1" >"$scratch/page.md"
    check_tree "$scratch" >/dev/null || found=bad
    if [[ $found != "$2" ]]; then
        echo "the check itself is broken: $1 was found $found, not $2" >&2
        exit 1
    fi
}
try_page 'See [that](missing.md).' bad
try_page '<img src="missing.svg">' bad
try_page 'See [that](page.md#nowhere).' bad
try_page '[that]: missing.md' bad
try_page 'See [that](page.md#a-page-with-punctuation) and [this](#a-page-with-punctuation).' good
# shellcheck disable=SC2016  # inline code of a page
try_page 'See [that](https://example.org/missing.md) and `[this](missing.md)`.' good

# ---- the repository ----

if ! check_tree "$root"; then
    echo "links: the pages have broken links" >&2
    exit 1
fi
echo "links: every relative link of the pages leads somewhere"
