"""What is taken for a secret in a command, and what is not."""

import pytest

from calmgrad.redaction import REUSED, find_secret, masked_command, remove_secrets
from calmgrad.secret_patterns import PATTERNS


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.name)
def test_every_pattern_finds_its_example(pattern: object) -> None:
    found = find_secret(pattern.example)  # type: ignore[attr-defined]
    assert found is not None
    assert found[0] is pattern


SECRETS = r"""
'Hunter22!'
Hun'ter22!
correct"Horse9x
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
curl -H 'Accept: a; b' -u ann:hunter22 u
curl 'https://h/?a=1&b=2' -u ann:hunter22
curl -sSku admin:hunter22 u
curl -E cert.pem:hunter22 u
curl -u "$USER:hunter22" u
curl -u 'ann':"hunter22" u
mysql -uroot -p$'hunter22'
sshpass -v -p hunter22 ssh h
sshpass '-phunter22' ssh h
vault kv put secret/x value=hunter22
mysql -u root "-phunter22" shop
redis-cli -h h AUTH hunter22
mosquitto_pub -u ann -P hunter22 -t x
set -x TOKEN hunter22
setenv DB_PASSWORD hunter22
export KEY=hunter22
export MY_PAT=hunter22
PASSWORD+=hunter22
passwort=hunter22
python -c "os.environ['API_KEY']='hunter22'"
cargo login hunter22
vault operator unseal hunter22
doctl auth init -t hunter22
mc alias set minio http://h ann hunter22
lftp -u ann,hunter22 host
smbclient //h/s hunter22 -U ann
etcdctl --user=root:hunter22 get x
rabbitmqctl add_user ann hunter22
poetry config pypi-token.pypi hunter22
bundle config gems.example.org ann:hunter22
curl https://api.telegram.org/bot123456789:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw1/x
echo -n 'ann:hunter22' | base64
echo hunter22 > ~/.vault_pass
echo hunter22 | kinit ann
echo hunter22 | su - root -c ls
yes hunter22 | passwd ann
ssh-add <<< hunter22
cryptsetup open x <(echo hunter22)
zip -rP hunter22 a.zip a
7z x "-phunter22" a.7z
pdftotext -upw hunter22 a.pdf
impdp scott/tiger x
iw dev wlan0 connect net key 0:hunter22
wpa_cli set_network 0 psk '"hunter22"'
imapsync --password1 hunter22
aws secretsmanager create-secret --secret-string hunter22
passwd ann hunter22
sudo passwd ann 'hunter22'
ssh h; passwd ann hunter22
mysql -u root -p Hunter22! shop
mysql -u root -p 'Hunter22!'
export TOKEN=$(echo hunter22)
DB_PASSWORD="$(printf 'hunter22')"
export API_KEY=`echo -n hunter22`
tmux send-keys -t db 'Hunter22!' Enter
tmux send -t db Hunter22! C-m
tmux send-keys -t db 'mysql -uroot -phunter22' Enter
screen -S a -X stuff 'Hunter22!'
xdotool type Hunter22!
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
sudo passwd bob
passwd -S bob
passwd -n 7 bob
passwd bob 2>&1
passwd bob; ls
cat /etc/passwd /etc/group
getent passwd bob ann
mysql -p shop
mysql -u root -p shop
mysqldump -u root -p shop_2024 > shop.sql
export X=$(date +%s)
export TOKEN=$(echo "$RAW" | cut -d: -f2)
export TOKEN=$(printf '%s' "$RAW")
export TOKEN=$(cat ~/.token)
tmux send-keys -t build 'make -j8' Enter
tmux send-keys -t Build2024 'ls' C-m
tmux send-keys -t 0 "cd ~/Src2/A1 && make" Enter
tmux new -s Work2024x
xdotool type hello
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
aws ec2 create-tags --tags Key=Owner,Value=IT
export FOO_PATH=/x
curl -u $USER:$PW u
curl -u ann: u
mysql -p$PW db
vault kv put secret/x value=@file
docker run --user 1000:1000 -u www-data:www-data nginx
echo aGVsbG8= | base64 -d
zip -r a.zip a
ssh-add ~/.ssh/id
echo key: a; ls > keys
cd ~/src/A1b2/some/Long/path/Of/Many/Folders42/and/More/
sudo grub2-mkpasswd-pbkdf2 -c 10
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


@pytest.mark.parametrize(
    "command",
    [
        "curl \\\n  -u ann:hunter22 \\\n  https://h",
        "curl \\\\\n  -u ann:hunter22",  # as zsh writes it
        "mysql \\\n -u root \\\r\n -phunter22",
        "sshpass -p \\\n  hunter22 ssh h",
        "cat > .pgpass <<E\nh:5432:db:ann:hunter22\nE",
    ],
)
def test_a_secret_on_another_line(command: str) -> None:
    assert find_secret(command)
    assert "hunter22" not in masked_command(command)


def test_a_key_line_by_line() -> None:
    """As bash keeps a pasted key when it keeps no times."""
    key = [
        "cat > id <<E",
        "-----BEGIN OPENSSH PRIVATE KEY-----",
        "c2gtZWQyNTUxOQAAACD/+abc/efg",
        "QyNT==",
        "-----END OPENSSH PRIVATE KEY-----",
    ]
    kept, removed = remove_secrets([*key, "E", "ls"])
    assert kept == [0, 5, 6]
    assert [line.masked for line in removed[1:]] == ["…", "…", "…"]
    endless = [key[1], *["ls"] * 150]
    assert remove_secrets(endless)[0] == list(range(101, 151))
    whole = "echo '" + "\n".join(key[1:]) + "' > k"
    assert remove_secrets([whole, "ls"])[0] == [1]
    assert "c2gt" not in masked_command(whole)
    assert find_secret("c2gtZWQyNTUxOQAAACD/+abcdefghijkl/mnopqrst/uvwxyzabcd/+1=")


def test_every_secret_of_a_command_is_masked() -> None:
    shown = masked_command("curl -u ann:hunter22 -H 'X-Api-Key: abcdefgh' 'h?token=zyxwvuts'")
    for secret in ("hunter22", "abcdefgh", "zyxwvuts"):
        assert secret not in shown
    assert shown.startswith("curl -u ann:hu…")
    for command in ("export TOKEN=$(echo 'hunter22')", "sudo passwd ann hunter22"):
        assert find_secret(command)[1] == "hunter22"  # type: ignore[index]
        assert "hunter22" not in masked_command(command)
    for command in ("chpasswd <<< ann:hunter22", "vncpasswd -f <<< 'hunter22'"):
        assert "hunter22" not in masked_command(command)


@pytest.mark.parametrize("piece", ["a", "-", "-p ", "a:", "pass", "pass=", "https://", "x_key ",
                                   "echo | ", "curl -u ", "'", "eyJaaaaaa.", "aB1",
                                   "\\\n", "\"", "curl '", "a:1:", "yes >", "echo>",
                                   "A/b1", "\n", "tmux send ", "mysql -p "])  # fmt: skip
def test_long_commands(piece: str) -> None:
    """A pattern that tried every way through a command would not end."""
    find_secret(piece * (4000 // len(piece)))
