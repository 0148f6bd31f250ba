"""What is taken for a secret in a command, and what is not."""

import pytest

from calmgrad.redaction import PATTERNS, REUSED, find_secret, masked_command, remove_secrets


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.name)
def test_every_pattern_finds_its_example(pattern: object) -> None:
    found = find_secret(pattern.example)  # type: ignore[attr-defined]
    assert found is not None
    assert found[0] is pattern


SECRETS = r"""
mysql -uroot -p'hunter22' db
mysql --user=root --password=hunter22
psql "host=h user=u password=hunter22 dbname=x"
psql postgresql://u:hunter22@h/db
PGPASSWORD=hunter22 psql -h x
export AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG/bPxRfi
set -x GITHUB_TOKEN abc
set -gx OPENAI_API_KEY abcdefg
curl -H "X-API-Key: 123456" u
curl -H 'Authorization: Basic dXNlcjpwYXNz' u
curl --data 'user=a&password=hunter22' u
curl -d '{"password":"hunter22"}' u
curl -b session=abcdef u
git remote add o https://x-access-token:abcdef@github.com/a/b
git clone https://ghp_abcdefghijklmnopqrst@github.com/a/b
docker run -e MYSQL_ROOT_PASSWORD=hunter22 mysql
docker run -e POSTGRES_PASSWORD hunter
echo 'hunter22' | docker login -u x --password-stdin
sudo -S <<< hunter22 ls
openssl enc -aes-256-cbc -k hunter22 -in a
gpg --batch --passphrase hunter22 -c f
ssh-keygen -t ed25519 -N hunter22 -f k
ansible-playbook x --extra-vars "db_pass=hunter22"
wget --user=a --password=b http://x
az storage blob list --account-key abcd
mongo -u a -p hunter22
redis-cli -u redis://:hunter22@h
mount -t cifs //h/s /m -o username=a,password=hunter22
net use z: \\h\s hunter22 /user:a
useradd -p hunter22 bob
echo bob:hunter22 | chpasswd
npm config set //r/:_authToken=abcd
rclone config create r s3 secret_access_key x
export SLACK_WEBHOOK=https://hooks.slack.com/services/T0/B0/xx
MYPASS=hunter22
DBPASS='hunter22'
SECRET="two words"
ngrok config add-authtoken 2abcDEF
cloudflared tunnel run --token eyJhIjoiYWJj
terraform apply -var db_password=hunter22
composer config github-oauth.github.com abcdef
snmpwalk -v3 -A authpass -X privpass h
java -Djavax.net.ssl.trustStorePassword=changeit X
gradle -PsigningPassword=abc
ffmpeg -i rtsp://admin:1234@cam/ x
sqlplus scott/tiger@db
bitcoin-cli walletpassphrase "abc def" 60
smbmap -u a -p b -H h
bw unlock hunter22
iwconfig wlan0 key s:hunter22
curl 'https://h/f?X-Amz-Signature=00ff'
cat <<E
password: hunter22
E
""".strip().splitlines()
HARMLESS = """
ls -la
cd /home/x
ssh -p 2222 -l bob host
ssh -i ~/.ssh/id_rsa git@example.org
tar -xzf a.tgz -P
sudo -u postgres mkdir -p a/b
docker run -u 1000 -p 8080:80 nginx
find . -perm 644 -user bob
sort --key=2 -u f
vim passwords.txt
passwd bob
pass show email/x
mysql -u root -p
mysql --password="$PW"
export TOKEN=$(pass show token)
PGPASSWORD="${PW}" psql
curl -u "$USER:$PW" https://example.org
curl -H "Authorization: Bearer $TOKEN" https://example.org
gcloud auth activate-service-account --key-file=k.json
kubectl get secret x -o yaml
git checkout 1fadefa67b26508cc59cf38e6130bde2243c929d
git clone git@example.org:a/b.git
git clone ssh://git@example.org/a/b.git
for key in a b; do echo $key; done
rsync --password-file=/etc/rsync.secret a b
docker pull nginx:1.27
echo $HOME
./Configure1
""".strip().splitlines()


@pytest.mark.parametrize("command", [c for c in SECRETS if c not in ("cat <<E", "E")])
def test_a_secret(command: str) -> None:
    assert find_secret(command)


@pytest.mark.parametrize("command", HARMLESS)
def test_no_secret(command: str) -> None:
    assert find_secret(command) is None


def test_a_secret_is_looked_for_in_all_commands() -> None:
    commands = ["login hunter22!", "ls", "export PASSWORD=hunter22!", "--password main", "main x"]
    kept, removed = remove_secrets(commands)
    assert kept == [1, 4]  # "main" is too short to be looked for
    assert [(r.number, r.kind, r.masked) for r in removed] == [
        (0, REUSED, "login hu…"),
        (2, "secret assigned to a name", "export PASSWORD=hu…"),
        (3, "secret option", "--password …"),
    ]
    assert remove_secrets([]) == ([], [])


def test_every_secret_of_a_command_is_masked() -> None:
    shown = masked_command("curl -u ann:hunter22 -H 'X-Api-Key: abcdefgh' 'h?token=zyxwvuts'")
    for secret in ("hunter22", "abcdefgh", "zyxwvuts"):
        assert secret not in shown
    assert shown.startswith("curl -u ann:hu…")


@pytest.mark.parametrize("piece", ["a", "-", "-p ", "a:", "pass", "pass=", "https://", "x_key ",
                                   "echo | ", "curl -u ", "'", "eyJaaaaaa.", "aB1"])  # fmt: skip
def test_long_commands(piece: str) -> None:
    """A pattern that tried every way through a command would not end."""
    find_secret(piece * (4000 // len(piece)))
