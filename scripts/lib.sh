# Shared by the scripts: interpreters and virtual environments. Sourced, not run.

fail() {
  echo "error: $*" >&2
  exit 2
}

note() { echo "== $*" >&2; }

# find_python NAME: the path of an interpreter that really starts, or nothing. NAME is
# a path, a command such as python3.12, or a version that only pyenv knows about.
find_python() {
  local name=$1 candidate
  local versions="${PYENV_ROOT:-$HOME/.pyenv}/versions"
  for candidate in "$(command -v "$name" || true)" "$versions"/*/bin/"$name"; do
    if [ -n "$candidate" ] && "$candidate" -c '' >/dev/null 2>&1; then
      echo "$candidate"
      return 0
    fi
  done
  return 1
}

python_version() {
  "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'
}

# require_python PATH: stop unless it is Python >= 3.11 and can make environments.
require_python() {
  local version
  version=$(python_version "$1")
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail \
    "Python 3.11 or newer is needed and $1 is Python $version;" \
    "choose another, for example PYTHON=python3.12 $0"
  "$1" -c 'import ensurepip, venv' 2>/dev/null || fail \
    "$1 lacks the venv module; on Debian or Ubuntu: apt install python$version-venv"
}

# choose_python: sets PY (interpreter) and VENV (its directory) from $PYTHON.
choose_python() {
  PY=$(find_python "${PYTHON:-python3}") || fail \
    "no interpreter named '${PYTHON:-python3}' starts here;" \
    "install Python 3.11 or newer, or set PYTHON to its path"
  require_python "$PY"
  if [ -n "${PYTHON:-}" ]; then
    VENV=".venv-$(python_version "$PY")"
  else
    VENV=".venv"
  fi
}

# install_stamp PYTHON EXTRAS: what an installation depends on, as one line.
install_stamp() {
  "$1" - "$2" <<'PY'
import hashlib, os, pathlib, sys
version = "%d.%d" % sys.version_info[:2]
files = ["setup.py", "constraints/%s.txt" % version]
data = b"".join(pathlib.Path(f).read_bytes() for f in files if os.path.exists(f))
print(version, sys.argv[1] or "base", hashlib.sha256(data).hexdigest(), os.getcwd())
PY
}

# make_venv PYTHON VENV EXTRAS: make or repair the environment, install the package and
# its extras ("" or "dev"). Does nothing, without network, if all that is done already.
# Of two scripts that start at once, the second waits for the first.
make_venv() {
  if command -v flock >/dev/null; then
    exec 9>"$2.lock"
    flock 9
    install_into "$@"
    exec 9>&-
  else
    install_into "$@"
  fi
}

install_into() {
  local python=$1 venv=$2 extras=$3 stamp version constraints=()
  version=$(python_version "$python")
  stamp=$(install_stamp "$python" "$extras")
  if [ "$(python_version "$venv/bin/python" 2>/dev/null)" != "$version" ] ||
    ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    note "making $venv with Python $version"
    "$python" -m venv --clear "$venv" || fail "could not make $venv with $python"
  elif [ "$(cat "$venv/installed-${extras:-base}" 2>/dev/null)" = "$stamp" ]; then
    return 0
  fi
  if [ -f "constraints/$version.txt" ]; then
    constraints=(-c "constraints/$version.txt")
  else
    note "no constraint file for Python $version: newest allowed versions"
  fi
  note "installing into $venv (a few minutes)"
  rm -f "$venv"/installed-*
  "$venv/bin/python" -m pip install -qq --disable-pip-version-check \
    ${constraints[@]+"${constraints[@]}"} --editable ".${extras:+[$extras]}" ||
    fail "installation into $venv failed; run the same command again to resume"
  echo "$stamp" >"$venv/installed-${extras:-base}"
  # The development extra contains the plain installation.
  [ -z "$extras" ] || install_stamp "$python" "" >"$venv/installed-base"
}
