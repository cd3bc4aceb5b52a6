#!/usr/bin/env bash
# Checks what pip cannot install: Python's venv module, LaTeX and a C++ compiler. What is missing is
# installed where that is possible (apt-get, as root or by sudo without a password); otherwise this
# says what to install, and fails unless the pipeline can do without.
#
#     tools/system_packages.sh [PYTHON]
set -euo pipefail

python=${1:-python3}
latex_packages=(texlive-latex-recommended texlive-latex-extra texlive-fonts-recommended
    texlive-science lmodern latexmk)
# One file from each of the packages above, in their order; latexmk is looked for by name.
latex_files=(booktabs.sty enumitem.sty ptmr8t.tfm siunitx.sty lmodern.sty)

has() { command -v "$1" >/dev/null 2>&1; }

has_venv() { [ -x .venv/bin/python ] || "$python" -c 'import ensurepip, venv' 2>/dev/null; }

# As src/stalegrad/training/kernels looks for one.
has_compiler() { [ -n "${CXX:-}" ] || has g++ || has clang++; }

# Tectonic (envs/report.yaml) fetches the style files it needs by itself.
has_latex() {
    has tectonic ||
        { has latexmk && has pdflatex && has bibtex && kpsewhich "${latex_files[@]}" >/dev/null; }
}

fail() {
    printf '\n%s\n' "$@" >&2
    exit 1
}

install() {
    local as_root=()
    has apt-get || return 1
    if [ "$(id -u)" -ne 0 ]; then
        has sudo && sudo -n true 2>/dev/null || return 1
        as_root=(sudo -n)
    fi
    echo "Installing system packages: $*"
    "${as_root[@]}" apt-get update -q &&
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
            apt-get install -q -y --no-install-recommends "$@"
}

has "$python" || fail "stalegrad needs Python 3.11 or later, and there is no command $python." \
    "Install it, or name another one: make PYTHON=python3.12 ..."
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "stalegrad needs Python 3.11 or later, but $python is $("$python" -V)." \
        "Name a newer one: make PYTHON=python3.12 ..."

missing=()
has_venv || missing+=("$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')")
has_latex || missing+=("${latex_packages[@]}")
has_compiler || missing+=(g++)
[ ${#missing[@]} -eq 0 ] || install "${missing[@]}" || true

has_venv || fail "$python has no ensurepip, which is needed to make .venv." \
    "On Debian and Ubuntu it is in the package python3-venv."
has_latex || fail "LaTeX is needed for the report, and is missing or incomplete. Nothing was run." \
    "Either install these packages (the names are Debian's):" \
    "    apt-get install --no-install-recommends ${latex_packages[*]}" \
    "or take it from conda:" \
    "    conda env create --name stalegrad-report --file envs/report.yaml" \
    "    conda activate stalegrad-report" \
    "and give the same command again."
has_compiler || echo "No C++ compiler (g++ or clang++) was found: runs on the CPU will use PyTorch" \
    "alone, which is several times slower. On Debian and Ubuntu the package is g++." >&2
