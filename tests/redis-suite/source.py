"""Where the suite comes from: Debian's source package of Redis 7.0 (bookworm), checked and unpacked by apt's tools.

The private apt folder takes mirror and keys from the machine's own list of sources; nothing global is changed.
"""

import glob
import os
import re
import shutil
import subprocess

RELEASE = "bookworm"
PACKAGES = {"tclsh": "tcl", "redis-cli": "redis-tools", "redis-benchmark": "redis-tools", "dpkg-source": "dpkg-dev"}


class Suite:
    """The unpacked source: `tests`, `utils`, `runtest`."""

    def __init__(self, folder):
        self.folder = folder
        self.tclsh = shutil.which("tclsh8.6") or shutil.which("tclsh")

    def path(self, *parts):
        return os.path.join(self.folder, *parts)


def fetched(cache):
    """The suite, from the cache if it is there."""
    need(PACKAGES)
    cache = os.path.abspath(cache)
    if not unpacked(cache):
        os.makedirs(cache, exist_ok=True)
        download(cache)
        for dsc in glob.glob(os.path.join(cache, "*.dsc")):
            run(["dpkg-source", "-x", os.path.basename(dsc)], cache)
    folder = unpacked(cache)
    if not folder:
        raise SystemExit(f"the package did not unpack into {cache}/redis-7.0.*")
    return Suite(folder)


def certificates(suite, cache):
    """The folder with the suite's certificates, made by its own script once."""
    need({"openssl": "openssl"})
    if subprocess.run([suite.tclsh], input=b"package require tls", capture_output=True).stderr:
        raise SystemExit("these packages are needed: apt-get install tcl-tls")
    folder = os.path.join(os.path.abspath(cache), "certificates")
    made = os.path.join(folder, "tests", "tls")
    if not os.path.exists(os.path.join(made, "redis.crt")):
        os.makedirs(made, exist_ok=True)
        # Parameters that Shoal does not use, and that take long to make.
        open(os.path.join(made, "redis.dh"), "w").close()
        run(["bash", suite.path("utils", "gen-test-certs.sh")], folder)
    return made


def need(programs):
    missing = sorted({package for program, package in programs.items() if not shutil.which(program)})
    if missing:
        raise SystemExit(f"these packages are needed: apt-get install {' '.join(missing)}")


def unpacked(cache):
    found = glob.glob(os.path.join(cache, "redis-7.0.*", "tests", "test_helper.tcl"))
    return os.path.dirname(os.path.dirname(found[0])) if found else None


def download(cache):
    apt = os.path.join(cache, "apt")
    for part in ("lists/partial", "cache/archives/partial", "parts"):
        os.makedirs(os.path.join(apt, part), exist_ok=True)
    with open(os.path.join(apt, "parts", "suite.sources"), "w") as out:
        out.write(sources())
    options = ["-o", "Dir::Etc::sourcelist=/dev/null", "-o", f"Dir::Etc::sourceparts={apt}/parts",
               "-o", f"Dir::State::lists={apt}/lists", "-o", f"Dir::Cache={apt}/cache"]
    run(["apt-get", *options, "-qq", "update"], cache)
    run(["apt-get", *options, "-qq", "source", "--download-only", f"redis/{RELEASE}"], cache)


def sources():
    """The machine's own entry for the main archive, asked for sources of the release."""
    for path in ("/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"):
        if os.path.exists(path):
            with open(path) as text:
                entry = derived(text.read())
            if entry:
                return entry
    raise SystemExit("no entry of a Debian archive was found in the machine's list of sources")


def derived(text):
    """The entry in deb822 form, from a file in that form or in that of one line each."""
    for stanza in re.split(r"\n\s*\n", text):
        lines = [line for line in stanza.splitlines() if line and not line.startswith("#")]
        if any(re.match(r"Types:.*\bdeb\b", line) for line in lines) and "security" not in stanza:
            kept = [line for line in lines if not re.match(r"(Types|Suites):", line)]
            return "\n".join(["Types: deb-src", f"Suites: {RELEASE}", *kept]) + "\n"
    for line in text.splitlines():
        found = re.match(r"deb\s+(?:\[(?P<options>[^]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s+(?P<parts>.+)", line)
        if found and "security" not in line:
            signed = re.search(r"signed-by=(\S+)", found["options"] or "")
            return "\n".join(["Types: deb-src", f"URIs: {found['uri']}", f"Suites: {RELEASE}",
                              f"Components: {found['parts'].strip()}",
                              *([f"Signed-By: {signed[1]}"] if signed else [])]) + "\n"
    return None


def run(command, folder):
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:1])} failed:\n{done.stdout}")
