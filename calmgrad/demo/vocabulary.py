"""The words of the demo's shell sessions: kinds of projects, routines, machines, commit messages.

Everything is invented. Machines live under example.org, .internal and 192.0.2.0/24, which are
reserved and lead nowhere. Patterns are filled with `str.format`: `{project}` is a project's name,
`{stem}` a source file's name without folder and ending, `{port}` a port the project serves on;
the other fields are those of `Session.words`.
"""

from dataclasses import dataclass

Step = str | tuple[str, ...]  # a command pattern, or several to choose from; "" is left out
Routine = tuple[Step, ...]  # " -> N" after a pattern: the command ends with exit code N


@dataclass(frozen=True, slots=True)
class Language:
    """A kind of project: what its tree looks like, and what one types in it."""

    name: str
    sources: tuple[tuple[str, str], ...]  # layouts: path patterns of a stem's source and its test
    extras: tuple[str, ...]  # files that every such project has, the list of packages first
    tests: tuple[str, ...]  # commands that test all; a project sticks to one
    focused: tuple[str, ...]  # commands that test what belongs to one stem
    failure: int  # exit code of a failing test
    checks: tuple[str, ...]  # build, lint and type check
    runs: tuple[str, ...]
    installs: tuple[str, ...]
    cleanups: tuple[str, ...]
    add_package: str = ""
    packages: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()


PYTHON = Language(
    name="python",
    sources=(
        ("src/{stem}.py", "tests/test_{stem}.py"),
        ("{project}/{stem}.py", "tests/test_{stem}.py"),
    ),
    extras=("requirements.txt", "pyproject.toml", "README.md"),
    tests=("python -m pytest", "python -m pytest -q", "pytest", "python -m pytest -x"),
    focused=("python -m pytest {test}", "python -m pytest -k {stem}"),
    failure=1,
    checks=("ruff check .", "ruff format .", "mypy .", "python -m build"),
    runs=("python -m {project}", "python -m {project} --help", "python -m {project} --port {port}"),
    installs=("pip install -e .", "pip install -r requirements.txt", "uv sync"),
    cleanups=("rm -r build dist", "rm -r .pytest_cache", "find . -name '*.pyc' -delete"),
    add_package="pip install {package}",
    packages=("numpy", "requests", "rich", "click", "pytest", "mypy", "pyyaml", "jinja2"),
    environment=("VIRTUAL_ENV=.venv", "PYTHONPATH=src"),
)
GO = Language(
    name="go",
    sources=(
        ("internal/{stem}/{stem}.go", "internal/{stem}/{stem}_test.go"),
        ("pkg/{stem}/{stem}.go", "pkg/{stem}/{stem}_test.go"),
        ("{stem}.go", "{stem}_test.go"),
    ),
    extras=("go.mod", "README.md", "cmd/{project}/main.go"),
    tests=("go test ./...", "go test -race ./..."),
    focused=("go test ./... -run {Stem}", "go test -v ./... -run {Stem}"),
    failure=1,
    checks=("go vet ./...", "go build ./...", "gofmt -l .", "go build -o bin/ ./cmd/{project}"),
    runs=("go run ./cmd/{project}", "./bin/{project} -port {port}", "./bin/{project} -h"),
    installs=("go mod tidy", "go mod download"),
    cleanups=("rm -r bin", "go clean -testcache"),
    add_package="go get example.org/{package}",
    packages=("flags", "sqlite", "yaml", "retry", "colors"),
    environment=("GOOS=linux", "CGO_ENABLED=0"),
)
RUST = Language(
    name="rust",
    sources=(("src/{stem}.rs", "tests/{stem}.rs"), ("src/{stem}/mod.rs", "tests/{stem}.rs")),
    extras=("Cargo.toml", "README.md", "src/main.rs"),
    tests=("cargo test", "cargo test --all-features", "cargo nextest run"),
    focused=("cargo test {stem}", "cargo test --test {stem}"),
    failure=101,
    checks=("cargo clippy", "cargo build --release", "cargo fmt", "cargo check", "cargo doc"),
    runs=("cargo run", "cargo run -- --help", "cargo run --release -- --port {port}"),
    installs=("cargo fetch", "cargo update"),
    cleanups=("cargo clean", "rm -r target/debug"),
    add_package="cargo add {package}",
    packages=("serde", "clap", "anyhow", "tokio", "rand", "regex", "tracing", "rayon"),
    environment=("RUST_LOG=debug", "RUST_BACKTRACE=1"),
)
NODE = Language(
    name="node",
    sources=(("lib/{stem}.js", "test/{stem}.test.js"), ("src/{stem}.ts", "src/{stem}.test.ts")),
    extras=("package.json", "README.md", "index.html"),
    tests=("npm test", "npm run test"),
    focused=("npx jest {stem}", "npm test -- {stem}"),
    failure=1,
    checks=("npm run build", "npm run lint", "npx prettier --write .", "npx eslint ."),
    runs=("npm start", "npm run dev", "node server.js --port {port}"),
    installs=("npm install", "npm ci", "npm outdated"),
    cleanups=("rm -r node_modules", "rm -r dist"),
    add_package="npm install {package}",
    packages=("express", "eslint", "vite", "lodash", "zod", "jest", "prettier", "dotenv"),
    environment=("NODE_ENV=development", "PORT={port}"),
)
C = Language(
    name="c",
    sources=(("src/{stem}.c", "tests/{stem}_test.c"),),
    extras=("Makefile", "README.md", "include/{project}.h"),
    tests=("make test", "make check"),
    focused=("./build/{stem}_test", "make test ONLY={stem}"),
    failure=2,
    checks=("make", "make -j4", "make DEBUG=1", "clang-format -i src/*.c"),
    runs=("./build/{project}", "./build/{project} --help", "valgrind ./build/{project}"),
    installs=("sudo make install", "./configure --prefix=/usr/local", "cmake -B build"),
    cleanups=("make clean", "rm -r build"),
    environment=("CC=clang", "CFLAGS=-O2"),
)
DOCS = Language(
    name="docs",
    sources=(("docs/{stem}.md", "examples/{stem}.md"), ("guide/{stem}.rst", "examples/{stem}.rst")),
    extras=("Makefile", "README.md", "index.md"),
    tests=("make html", "make linkcheck"),
    focused=("make linkcheck PAGE={stem}",),
    failure=2,
    checks=("make spelling", "make pdf", "codespell"),
    runs=("python -m http.server {port}", "mkdocs serve", "make livehtml"),
    installs=("pip install -r requirements.txt",),
    cleanups=("make clean", "rm -r site"),
)
INFRA = Language(
    name="infra",
    sources=(
        ("deploy/{stem}.yaml", "values/{stem}.yaml"),
        ("roles/{stem}/tasks/main.yml", "roles/{stem}/defaults/main.yml"),
        ("modules/{stem}.tf", "variables/{stem}.tfvars"),
    ),
    extras=("Makefile", "README.md", "inventory.ini"),
    tests=("make plan", "terraform validate", "ansible-lint"),
    focused=("make plan ROLE={stem}",),
    failure=2,
    checks=("terraform fmt", "terraform plan", "helm lint charts/{project}"),
    runs=("terraform apply", "ansible-playbook -i inventory.ini site.yml", "make deploy"),
    installs=("terraform init", "helm repo update"),
    cleanups=("rm -r .terraform", "make clean"),
    environment=("KUBECONFIG=~/.kube/staging", "TF_LOG=info"),
)
# Repeated entries, here and below, are the more common ones.
LANGUAGES = (PYTHON, PYTHON, PYTHON, GO, GO, RUST, RUST, NODE, NODE, C, C, C, DOCS, INFRA)

PROJECTS = (
    "orbit lantern pebble quill thimble marble cobalt meadow tundra beacon compass glacier canyon "
    "prairie lagoon sparrow otter badger heron maple cedar kettle saddle anvil bobbin trellis "
    "gantry sextant tidepool driftwood sandbar hedgerow millpond woodpile inkwell paperclip"
).split()
PROJECT_HOMES = ("~", "~/src", "~/src", "~/work", "~/code")
# Each starts with another letter, so that a small model soon tells them apart.
STEMS = (
    "buffer cache engine filter graph history index kernel layout metrics network output parser "
    "queue router session table worker"
).split()
EDITORS = ("vim", "vim", "vim", "vim", "nano", "nvim", "code", "hx", "emacs")
SERVICES = "nginx postgresql redis docker grafana mailer backup sshd".split()
HOSTS = (
    "web1.example.org web2.example.org db1.example.org git.example.org build.example.org "
    "files.example.org staging.internal backup.internal db.internal cache.internal 192.0.2.10 "
    "192.0.2.15 192.0.2.40"
).split()
NAMESPACES = ("staging", "production", "default", "monitoring")
IMAGES = ("alpine", "debian:stable", "ubuntu:24.04", "python:3.12", "golang:1.22", "redis:7")
PORTS = ("3000", "4000", "5000", "8000", "8080", "8888", "9000")
TABLES = "sales rainfall stations orders visits prices readings flights survey census".split()
SEARCHED = "TODO FIXME timeout retry deprecated max_size default_port".split()
PLACE_FILES = {
    "~/Documents": ("budget.ods", "letter.odt", "minutes.md", "contract.pdf", "plans.txt"),
    "~/Downloads": ("photos.zip", "setup.tar.gz", "manual.pdf", "fonts.zip", "icons.tar.gz"),
    "~/Pictures": ("beach.jpg", "garden.jpg", "scan.png", "poster.png", "trip.jpg"),
    "~/notes": ("todo.md", "ideas.md", "reading.md", "meeting.md", "shopping.txt"),
    "~/backup": ("home.tar.gz", "photos.tar.gz", "mail.tar.gz", "notes.tar.gz"),
    "/etc": ("hosts", "fstab", "ssh/sshd_config", "nginx/nginx.conf", "crontab"),
    "/var/log": ("syslog", "auth.log", "nginx/access.log", "nginx/error.log", "kern.log"),
    "/tmp": ("out.txt", "patch.diff", "response.txt"),
    "/srv/www": ("index.html", "style.css", "robots.txt", "feed.xml"),
}
PLACES = tuple(PLACE_FILES)

LOOKS = ("ls", "ls", "ls -l", "ls -la", "pwd", "clear", "date", "history | tail")
GIT_LOOKS = ("git status", "git status", "git log --oneline", "git branch", "git diff HEAD")
SLIPS = (("sl", "ls"), ("claer", "clear"), ("eixt", "exit"))
GIT_SLIPS = (("gti status", "git status"), ("git statsu", "git status"), ("gut diff", "git diff"))

SEARCHES = (
    "grep -rn {word} {folder}",
    "grep -rn {word} --include='*.{suffix}' .",
    "git grep {word}",
    "rg {word}",
    "rg -l {word} {folder}",
    "find . -name '*{stem}*'",
)
# What a commit says about the file it changes.
CHANGES = (
    "fix {stem} on empty input",
    "fix {stem} when offline",
    "fix off by one in {stem}",
    "fix typo in {stem}",
    "fix crash in {stem}",
    "add tests for {stem}",
    "add {stem} option",
    "add limits to {stem}",
    "add {stem} example",
    "update {stem}",
    "update {stem} defaults",
    "remove unused code in {stem}",
    "remove old {stem}",
    "rename fields in {stem}",
    "simplify {stem}",
    "speed up {stem}",
    "split {stem} in two",
    "clean up {stem}",
    "document {stem}",
    "handle errors in {stem}",
    "handle long lines in {stem}",
    "check bounds in {stem}",
    "move helpers out of {stem}",
    "log failures in {stem}",
)
# The same in projects that put the topic first.
TOPIC_CHANGES = (
    "{stem}: fix empty input",
    "{stem}: fix off by one",
    "{stem}: fix typo",
    "{stem}: fix wrong exit code",
    "{stem}: accept several files",
    "{stem}: add option",
    "{stem}: add example",
    "{stem}: add tests",
    "{stem}: cover errors",
    "{stem}: simplify",
    "{stem}: fewer copies",
    "{stem}: log failures",
    "{stem}: remove unused code",
    "{stem}: rename fields",
)
BRANCHES = ("{stem}-fix", "{stem}-cleanup", "feature/{stem}", "fix/{stem}", "new-{stem}")

# What one does in a project without changing a file of it.
PROJECT_ROUTINES: tuple[Routine, ...] = (
    ("{check}", "{run}"),
    ("{check}", "{run}", ("{cleanup}", "")),
    ("{serve} -> 130", "curl -s http://localhost:{port}/{page}"),
    ("{serve} -> 130", "curl -s http://localhost:{port}/{page} -> 7", "{serve} -> 130"),
    ("cd {folder}", ("ls", "ls -l", "tree"), "{reader} {file}", "cd .."),
    ("{reader} {folder}/{file}", ("git log --oneline -- {folder}/{file}", "")),
    ("git blame {folder}/{file}", "git show HEAD~{number}"),
    ("tree {folder}", "find {folder} -name '*.{suffix}' | wc -l"),
    ("du -sh {folder}", "ls -lh {folder}"),
    ("git log --oneline", "git show HEAD~{number}"),
    (
        "docker build -t {image} .",
        "docker run --rm -d -p {port}:{port} --name {project} {image}",
        "docker ps",
        ("docker logs -f {project} -> 130", "docker logs {project}"),
        ("docker exec -it {project} sh", ""),
        "docker stop {project}",
    ),
    ("docker build -t {image} . -> 1", "{editor} Dockerfile", "docker build -t {image} ."),
    (
        "docker compose up -d",
        ("docker compose ps", "docker compose logs -f -> 130", "docker ps"),
        "docker compose down",
    ),
    ("docker pull {base_image}", "docker run --rm -it {base_image} sh", ("docker image prune", "")),
    (
        "kubectl apply -f deploy/{project}.yaml -n {namespace}",
        "kubectl rollout status deploy/{project} -n {namespace}",
        "kubectl get pods -n {namespace}",
    ),
    (
        "kubectl apply -f deploy/{project}.yaml -n {namespace}",
        "kubectl rollout status deploy/{project} -n {namespace} -> 1",
        "kubectl logs deploy/{project} -n {namespace}",
        "kubectl rollout undo deploy/{project} -n {namespace}",
    ),
    (
        "git archive -o /tmp/{project}.tar.gz HEAD",
        "scp /tmp/{project}.tar.gz {host}:/srv/releases/",
        ("ssh {host} ls /srv/releases", "rm /tmp/{project}.tar.gz"),
    ),
    (
        "curl -O https://{host}/data/{table}.csv",
        ("head {table}.csv", "wc -l {table}.csv", "less {table}.csv"),
        "cut -d, -f{number} {table}.csv | sort | uniq -c",
        ("rm {table}.csv", "gzip {table}.csv"),
    ),
    ("curl -O https://{host}/data/{table}.csv -> 28", "wget https://{host}/data/{table}.csv"),
)
# What one does in one of PLACE_FILES' folders, by how the file's name ends.
PLACE_ROUTINES: dict[str, tuple[Routine, ...]] = {
    ".zip": (("unzip -l {file}", "unzip {file}", "rm {file}"), ("unzip {file}", "ls {name}")),
    ".tar.gz": (
        ("tar tzf {file}", "tar xzf {file}"),
        ("ls -lh {file}", "scp {file} {host}:backup/", "ssh {host} ls backup"),
        ("sha256sum {file}", "tar tzf {file} | wc -l"),
    ),
    ".jpg": (("xdg-open {file}",), ("file {file}", "cp {file} ~/backup/")),
    ".png": (("xdg-open {file}",), ("file {file}", "mv {file} old-{file}")),
    ".pdf": (("xdg-open {file}",), ("pdftotext {file}", "less {name}.txt")),
    ".md": (("{editor} {file}",), ("cat {file}", "{editor} {file}"), ("grep -n todo {file}",)),
    ".log": (("sudo tail -f {file} -> 130",), ("sudo grep -c error {file}", "sudo less {file}")),
    "": (("cat {file}", ("wc -l {file}", "")), ("ls -lh {file}", "less {file}")),
    "/etc": (
        ("sudo cp {file} {file}.bak", "sudo {editor} {file}", "diff {file}.bak {file} -> 1"),
        ("cat {file}", "sudo {editor} {file}"),
    ),
}
# What one does on a server.
SERVER_ROUTINES: tuple[Routine, ...] = (
    (
        "systemctl status {service} -> 3",
        ("journalctl -u {service} -n {lines}", "journalctl -u {service} -f -> 130"),
        ("sudo {editor} /etc/{service}/{service}.conf", ""),
        "sudo systemctl restart {service}",
        "systemctl status {service}",
    ),
    (
        "systemctl status {service}",
        "sudo {editor} /etc/{service}/{service}.conf",
        "sudo systemctl reload {service}",
        "journalctl -u {service} -n {lines}",
    ),
    ("sudo systemctl restart {service} -> 1", "journalctl -eu {service}"),
    ("systemctl --failed", "systemctl status {service} -> 3", "sudo systemctl start {service}"),
    ("df -h", "du -sh {place}/*", ("sudo journalctl --vacuum-size={lines}M", "")),
    ("uptime", "top", "ps aux | grep {service}"),
    ("free -h", "htop"),
    ("ping -c 3 {host} -> 1", "ip addr", "dig {host}"),
    ("ping -c 3 {host}", "ssh {host} uptime"),
    ("ssh {host} -> 255", "ssh-copy-id {host}", "ssh {host}"),
    ("sudo apt update", "apt list --upgradable", "sudo apt upgrade"),
    ("ss -tlnp", "curl -I http://localhost:{port}"),
    ("rsync -av {place}/ {host}:{place}/", "ssh {host} du -sh {place}"),
)
