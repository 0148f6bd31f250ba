"""What secrets in shell commands look like: passwords, tokens, keys, URLs with credentials.

The patterns rather find too much than too little; what a variable holds (`--password "$PW"`) is no
secret in the command itself.
"""

import re
from dataclasses import dataclass

# A value as it stands after an option or a name; not what a variable or a command gives, nor
# the name of a file.
_PATH = r"(?:~|\.{1,2})/|/(?:etc|home|usr|var|tmp|opt|root|run|dev|mnt|srv|Users|proc)/"
_VALUE = rf"""(?!["']?(?:\$[({{\w]|`|<|{_PATH}))["']{{0,2}}(?P<secret>[^\s"']+)"""
# How the name of an option or a variable ends that holds a secret.
_SECRET_NAME = (
    r"(?:pass(?:word|wort|wd|phrase|code)?|kennwort|secret|token|credentials?|otp|(?<![a-z])(?:pw|pwd|auth|pin|psk)|_pat"
    r"|(?:api|access|account|auth|private|secret|master|sign|signing|encryption|storage|shared)key"
    r"|[a-z0-9][_-]key)"
)
# Before a word that is likely a password: letters, digits and a capital or a sign.
_LIKELY = r"(?![-./~])(?=\S*[a-z])(?=\S*\d)(?=\S*[A-Z!@#$%^&*?+])"
_MYSQL = "mysql|mysqldump|mysqladmin|mysqlimport|mysqlshow|mariadb|mariadb-dump|mycli"


@dataclass(frozen=True, slots=True)
class Pattern:
    """A kind of secret.

    Attributes:
        name: what it finds.
        regex: its group `secret`, where there is one, is the secret itself.
        example: a command that holds one (invented).
    """

    name: str
    regex: re.Pattern[str]
    example: str


def _pattern(name: str, regex: str, example: str, flags: re.RegexFlag = re.NOFLAG) -> Pattern:
    return Pattern(name, re.compile(regex, flags), example)


_ANY_CASE = re.IGNORECASE

PATTERNS = (
    _pattern(
        "URL with credentials",
        r"\b[a-z][a-z0-9+.-]{0,20}://(?:[^\s/:@'\"]{0,99}:(?!\$)(?P<secret>[^\s/@'\"]+)"
        r"|(?!\$)[^\s/:@'\"]{16,})@",
        "git clone https://ann:hunter22@git.example.org/a.git",
        _ANY_CASE,
    ),
    _pattern(
        "secret in a URL's query",
        r"[?&](?:[\w-]*(?:token|key|secret|password|passwd|pwd|auth|sig|signature)|code)="
        rf"{_VALUE}",
        "curl 'https://example.org/v1?api_key=4f9a1c'",
        _ANY_CASE,
    ),
    _pattern(
        "user:password@host",
        r"(?<![\w/.-])[\w.\\/-]{1,64}:(?!\$)(?P<secret>[^\s/@:'\"]+)@[\w.-]+",
        "rpcdump corp/ann:hunter22@example.org",
    ),
    _pattern(
        "secret option",
        rf"(?<!\S)--?[\w-]{{0,40}}?{_SECRET_NAME}(?:[_-]?string|\d)?(?:\s*=\s*|\s+){_VALUE}",
        "rabbit --password hunter22 status",
        _ANY_CASE,
    ),
    _pattern(
        "secret assigned to a name",
        rf"{_SECRET_NAME}(?:[_-]?\d+)?[\"']?\]?\s*(?:\+?=|:(?!:|//))\s*{_VALUE}"
        r"|(?<![\w.-])(?-i:KEY)=(?![\"']?[$`<]|\s)\S",
        "export DB_PASSWORD=hunter22",
        _ANY_CASE,
    ),
    _pattern(
        "authorization header",
        r"\b(?:authorization|x-[\w-]*(?:key|token|auth)[\w-]*|private-token|cookie)\s*:\s*"
        rf"(?:(?:bearer|basic|token|digest)\s+)?+{_VALUE}",
        "curl -H 'Authorization: Bearer abc.def' example.org",
        _ANY_CASE,
    ),
    _pattern(
        "bearer token",
        rf"\bbearer\s+{_VALUE}",
        "http example.org 'Bearer abcdef'",
        _ANY_CASE,
    ),
    _pattern(
        "user and password for curl, wget or http",
        r"\b(?:curl|wget|https?|xh)\b[^|;&\n]*?\s(?:-\w*[uUa]|--user|--proxy-user|--auth|--cert|-E)[\s=]*"
        r"[\"']?[^\s:\"']+[\"']?:[\"']?(?!\$)(?P<secret>[^\s\"']+)"
        r"|\bcurl\b[^|;&\n]*?\s(?:-b|--cookie)[\s=]*[\"']?[^\s\"'$]+=",
        "curl -u ann:hunter22 https://example.org",
    ),
    _pattern(
        "password of a database client",
        rf"\b(?:{_MYSQL})\b[^|;&\n]*?\s[\"'\\]?-p(?!\$[^']|[\"']\$)\$?[\"']?(?P<secret>[^\s\"']+)"
        rf"|\b(?:redis-cli)\b[^|;&\n]*?\s(?:-a\s*|(?i:auth)\s+)(?!\$|[\"']\$)\S+"
        rf"|\b(?:sqlcmd|mongo|mongosh|mongodump|bcp|mosquitto_\w+)\b[^|;&\n]*?\s-[pP]\s*(?!\$|[\"']\$)[^\s-]\S*",
        "mysql -u root -phunter22 shop",
    ),
    _pattern(
        "password of a login",
        r"\b(?:docker|podman|buildah|skopeo|az|oc|cf|helm|nerdctl)\b[^|;&\n]*?\slogin\b[^|;&\n]*?"
        rf"\s-p[\s=]*{_VALUE}",
        "docker login -u ann -p hunter22 registry.example.org",
    ),
    _pattern(
        "token of a login",
        rf"\b(?:vault|gh|npm|doctl|heroku|fly|huggingface-cli|hf|wandb|infisical|bw|lpass|cargo)\b"
        rf"[^|;&\n]*?\s(?:login|unlock|unseal)\s+(?!-){_VALUE}"
        r"|\bngrok\b[^|;&\n]*auth-?token\s+\S|\bwalletpassphrase\s+\S"
        r"|\bdoctl\b[^|;&\n]*?\s-t\s+\S|\bnuget\s+setapikey\s+\S"
        r"|\blogin\s+\S+\s+(?!-)\S*\d",
        "wandb login 4f9a1c77",
    ),
    _pattern(
        "sshpass, smbclient, rdp or ipmi password",
        rf"\bsshpass\s+(?:-\w\s+)*[\"']?-p\s*{_VALUE}"
        r"|(?<=\s)-U\s*[\"']?[^\s%\"']+%(?!\$)[^\s\"']+"
        r"|(?<=\s)/p:(?!\$)\S+|\bsmbclient\s+[\\/]\S+\s+[^\s-]"
        r"|\b(?:lftp|ncftp\w*)\b[^|;&\n]*?\s-u\s*[^\s,]+,(?!\$)[^\s]"
        r"|\b(?:etcdctl|transmission-\w+)\b[^|;&\n]*?\s(?:--user|--auth|-n)[\s=]*[^\s:$]+:(?!\$)\S"
        r"|\b(?:ipmitool|ldap\w+)\b[^|;&\n]*?\s-[wP]\s*(?!\$|[\"']\$)[^\s-]\S*",
        "sshpass -p hunter22 ssh ann@example.org",
    ),
    _pattern(
        "password of an archive, key or certificate",
        rf"\b(?:zip|unzip)\b[^|;&\n]*?\s-\w*P\s*{_VALUE}"
        r"|\b(?:7z[ar]?|rar|unrar)\b[^|;&\n]*?\s[\"']?-(?:p|hp)(?!\$)[^\s-]\S*"
        r"|\bpass:(?!\$)[^\s\"']+"
        r"|\b(?:ssh-keygen)\b[^|;&\n]*?\s-[NP]\s*[\"']?(?!\$)[^\s\"'-][^\s\"']*"
        r"|\bopenssl\b[^|;&\n]*?\s-[kK]\s+(?!\$|[\"']\$)\S+"
        r"|(?<=\s)-(?:store|key|dest(?:store|key)|src(?:store|key)|new)pass(?:wd)?\s+(?!\$)\S+",
        "zip -P hunter22 -r a.zip a",
    ),
    _pattern(
        "password given to a program that sets or asks one",
        r"(?:\becho\b|\bprintf\b|\byes\b|<<<)[^|;&\n]*(?:\|[^|;&\n]*)?"
        r"(?:\bsudo\s+(?:-\w+\s+)*-\w*S|\bchpasswd\b|\bpasswd\b|--password-stdin|--with-token"
        r"|\bcryptsetup\b|\bopenssl\s+passwd\b|\bkinit\b|\|\s*su\b"
        r"|\|\s*base64\b(?!\s+(?:-\w*[dD]|--decode)))"
        r"|\b(?:\w*pass\w*|cryptsetup|sudo|login|--password-stdin|--with-token|ssh-add|kinit)\b"
        r"[^|;&\n]*<<<"
        r"|(?:pass\w*|secrets?|token|key|cryptsetup)\b[^|;&\n]*<\(\s*(?:echo|printf)\b"
        r"|(?:\becho\b|\bprintf\b)[^|;&\n>]*>{1,2}\s*[\"']?[^\s|;&>]*(?:pass|secret|token|cred|netrc)"
        r"|(?:\becho\b|\bprintf\b)[^|;&\n]*\|[^|;&\n]*\b(?:\w*pass\w*|secrets?)\s"
        r"|\b(?:useradd|usermod)\b[^|;&\n]*?\s-p\s*\S|\bexpect\b[^|]*\bsend\b"
        r"|\b(?:sqlplus|[ei]mpdp|sqlldr|rman)\b[^|;&\n]*?\s\w+/\w|\bnet\s+use\b[^|;&\n]*\s/user:"
        r"|\biw(?:config)?\b[^|;&\n]*\skey\s+\S|\bsnmp\w+\b[^|;&\n]*?\s-[AXc]\s*\S"
        r"|\bopenssl\s+passwd\b[^|;&\n]*\s[^\s-]\S*\s*$"
        r"|\bhtpasswd\s+-\w*b\w*\s|\bwpa_passphrase\s+\S+\s+\S|(?<![\w-])mkpasswd\s(?:[^|;&\n]*\s)?[^\s-]|\brclone\s+obscure\s+\S"
        r"|\bansible-vault\s+encrypt_string\s+\S|\bnet\s+user\s+\S+\s+\S"
        r"|\bsecurity\s+add-\w+-password\b|\bcaddy\s+hash-password\b"
        r"|\bset-?(?:pass(?:word)?|secret|token)\s+\S",
        "echo hunter22 | sudo -S apt update",
    ),
    _pattern(
        "password after the word",
        rf"\b(?:password|passphrase|psk|wpa-psk|identified\s+by)\s+{_VALUE}",
        "nmcli device wifi connect home password hunter22",
        _ANY_CASE,
    ),
    _pattern(
        "secret assigned to a name by way of echo",
        rf"{_SECRET_NAME}\d?=[\"']?(?:\$\(|`)\s*(?:echo|printf)\s+(?:-\w+\s+)*(?![\"']?[$%`<~])"
        r"[\"']?(?P<secret>[^\s\"')`|]+)",
        "export API_TOKEN=$(echo hunter22)",
        _ANY_CASE,
    ),
    _pattern(
        "word like a password, typed for a program or after -p",
        # What is sent to a terminal is mostly commands; in `mysql -p WORD` it is a database.
        r"\b(?:(?:(?>tmux\b[^|;&\n]*?\ssend(?:-keys)?\s)|(?>screen\b[^|;&\n]*?\sstuff\s)"
        r"|[xy]dotool\s+type\s)(?:[^|;&\n]*?\s)?"
        rf"|(?>(?:{_MYSQL})\b[^|;&\n]*?\s-p\s+))(?<!-t )[\"']?{_LIKELY}"
        r"(?P<secret>[^\s/=.\"']{8,})(?=[\"'\s]|\Z)",
        "tmux send-keys -t db 'Hunter22!' Enter",
    ),
    _pattern(
        "second word after passwd",
        r"(?:\A|[|;&(]\s*|\b(?:sudo|doas)\s+)passwd\s+[\w.][\w.-]*\s+"
        r"(?P<secret>(?![-|;&<>#(]|\d?[<>])\S+)",
        "passwd ann hunter22",
    ),
    _pattern(
        "secret stored by a tool",
        r"\bkubectl\b[^|;&\n]*\bcreate\s+secret\b"
        r"|\baws\s+configure\s+set\s+\S*(?:key|token|secret)\S*\s+\S"
        r"|\b(?:npm|yarn|pnpm)\s+config\s+set\s+\S*(?:auth|token|password)\S*\s+\S"
        r"|\b(?:composer|poetry)\s+config\b[^|;&\n]*(?:oauth|token|basic)\S*\s+\S"
        r"|\bbundle\s+config\b[^|;&\n]*?\s[^\s:/]+:[^\s/]|\btravis\s+encrypt\s+\S"
        r"|\bmc\s+(?:alias\s+set|config\s+host\s+add)\s+\S+\s+\S+\s+\S+\s+\S"
        r"|\bvault\s+(?:kv\s+(?:put|patch)|write)\s+\S+\s+[^\s=]+=(?![@$-])\S"
        r"|\brabbitmqctl\s+add_user\s+\S+\s+\S|\bSecureString\b"
        r"|\bgit\s+config\b[^|;&\n]*(?:token|password|secret|extraheader)\S*\s+\S"
        r"|\b(?:gh|fly|wrangler|heroku|doppler|flyctl)\b[^|;&\n]*\bsecrets?\s+(?:set|put|import)\b",
        "aws configure set aws_secret_access_key wJalrXUtn",
        _ANY_CASE,
    ),
    _pattern(
        "user and password as options",
        r"\A(?![\s\S]*\b(?:mkdir|cp|install|ps|lsof|ss|netstat|patch)\b)"
        r"(?!\s*(?:sudo\s+)?(?:" + _MYSQL + r")\b)"
        r"(?=[\s\S]*\s(?:-u|-U|-l|--user|--username)[\s=])"
        rf"[\s\S]*?\s-p[\s=]+(?![\d.:/-]+(?:/(?:tcp|udp))?(?:\s|\Z)){_VALUE}",
        "twine upload -u ann -p hunter22 dist",
    ),
    _pattern(
        "secret after a name",
        rf"_(?:pass\w*|secret|token|key|auth)\s+{_VALUE}"
        rf"|\bset(?:env)?\s+(?:-\w+\s+)*\w*{_SECRET_NAME}\s+(?![\"']?[$`])\S"
        rf"|(?:\b(?:input|user|owner)_pw|(?<=\s)-[uo]pw)\s+\S",
        "set -gx API_TOKEN hunter22",
        _ANY_CASE,
    ),
    _pattern(
        "cloud key",
        r"\b(?:AKIA|ASIA|AIDA|AROA)[0-9A-Z]{16}\b|\bAIza[\w-]{30,}|\bya29\.[\w-]{10,}"
        r"|\bGOCSPX-[\w-]{10,}|\bdo[opr]_v1_[0-9a-f]{16,}|\bdapi[0-9a-f]{16,}|\bLTAI\w{12,}"
        r"|\bAccountKey=",
        "s3cmd --id AKIAABCDEFGHIJKLMNOP ls",
    ),
    _pattern(
        "token of a known service",
        r"\bgh[pousr]_\w{16,}|\bgithub_pat_\w{16,}|\bgl(?:pat|ptt|dt|rt|sa)[-_][\w-]{16,}"
        r"|\bxox[a-z]-[\w-]{8,}|\bxapp-[\w-]{8,}|\bsk-[\w-]{16,}|\b[srp]k_(?:live|test)_\w{8,}"
        r"|\bnpm_\w{20,}|\bpypi-[\w-]{16,}|\bhf_\w{16,}|\bSG\.[\w-]{16,}|\bdckr_pat_[\w-]{16,}"
        r"|\bhv[sbr]\.[\w-]{16,}|\bATATT[\w=-]{16,}|\bshp(?:at|ca|pa|ss)_\w{16,}|\blin_api_\w{16,}"
        r"|\bsq0\w{3}-[\w-]{16,}|\bdp\.\w{2}\.\w{16,}|\bnf[pc]_\w{16,}|\bNRAK-\w{16,}"
        r"|\bkey-[0-9a-f]{32}|\bAGE-SECRET-KEY-1\w+|(?:\b|bot)\d{8,10}:[\w-]{35}\b|\bgsk_\w{16,}"
        r"|hooks\.slack\.com/services/\w|discord(?:app)?\.com/api/webhooks/\d",
        "gh auth status --hostname ghp_abcdefghijklmnop0123",
    ),
    _pattern(
        "JSON web token",
        r"\beyJ[\w-]{6,}\.[\w-]{4,}\.?[\w-]*",
        "jwt decode eyJhbGciOi.eyJzdWIiOi.c2lnbmF0dXJl",
    ),
    _pattern(
        "private key",
        r"-----BEGIN [A-Z0-9 ]*(?:PRIVATE KEY|OPENSSH|PGP MESSAGE)[^-]*(?:-----[^-]+)?",
        "echo '-----BEGIN OPENSSH PRIVATE KEY-----' > k",
    ),
    _pattern(
        "long hexadecimal string",
        r"(?<![0-9A-Za-z:])(?P<secret>[0-9a-f]{32,}|[0-9A-F]{32,})(?![0-9A-Za-z])",
        "unlock 0123456789abcdef0123456789abcdef",
    ),
    _pattern(
        "long random string",
        r"(?<![\w+/=.-])(?=[\w+=-]*[a-z])(?=[\w+=-]*[A-Z])(?=[\w+=-]*\d[\w+=-]*\d)"
        r"(?P<secret>[\w+=-]{20,})(?![\w/.-])",
        "unlock Zx8Kq2vT9mLw4RbN7cYd1",
    ),
    _pattern(
        "line of base64, as of a key",
        r"\A\s*(?=\S*[a-z])(?=\S*[A-Z])(?=\S*\d)(?P<secret>[A-Za-z0-9+/]{40,}={0,2})\s*\Z",
        "b3BlbnNzaC1rZXktdjEAAAAABG5v/mUAAAAEbm9uZQAAAAAA",
    ),
    _pattern(
        "line of a password file",
        r"^[\w.*-]+:(?:\d+|\*):[^\s:]+:[^\s:]+:(?!\$)(?P<secret>[^\s:/]+)$",
        "db.example.org:5432:shop:ann:hunter22",
        re.MULTILINE,
    ),
    _pattern(
        "a lone word like a password",
        rf"\A\s*{_LIKELY}(?P<secret>[^\s/=.]{{8,}})\s*\Z",  # quotes may be part of it
        "Hunter22!",
    ),
)
