"""What the receiver says. Nothing that a client sent or that an exception said is echoed.

RFC 5321 4.2 gives the codes, RFC 3463 and RFC 7504 the enhanced ones.
"""

from __future__ import annotations

OK = b"250 2.0.0 OK"
SENDER_OK = b"250 2.1.0 Sender OK"
RECIPIENT_OK = b"250 2.1.5 Recipient OK"
STORED = b"250 2.6.0 Message stored"
CANNOT_VERIFY = b"252 2.5.2 Cannot verify, but will take a message and try"
HELP = b"214 2.0.0 See RFC 5321"
LOGGED_IN = b"235 2.7.0 Logged in"
BYE = b"221 2.0.0 Bye"
START_TLS = b"220 2.0.0 Ready to start TLS"
START_DATA = b"354 End data with <CR><LF>.<CR><LF>"

SHUTTING_DOWN = b"421 4.3.2 Shutting down, please try again"
TOO_MANY_CONNECTIONS = b"421 4.7.0 Too many connections, please try again later"
TOO_MANY_ERRORS = b"421 4.7.0 Too many errors"
TOO_MANY_COMMANDS = b"421 4.7.0 Too many commands"
TOO_MANY_LOGINS = b"421 4.7.0 Too many failed logins"
TOO_SLOW = b"421 4.4.2 Timeout"
TOO_LONG = b"421 4.4.2 Session has lasted too long"
ENDLESS_LINE = b"421 4.5.2 Line without an end"
ENDLESS_CONTENT_OF_LMTP = b"421 4.3.4 Content without an end"  # not each recipient has its reply
DATABASE_AWAY_LONG = b"421 4.3.0 Service not available, please try again later"

DATABASE_AWAY = b"451 4.3.0 Service not available, please try again later"
LOCAL_ERROR = b"451 4.3.0 Temporary failure"
NOT_STORED = b"451 4.3.0 Message could not be stored, please try again"
DISK_LOW = b"452 4.3.1 Insufficient storage, please try again later"
TOO_MANY_RECIPIENTS = b"452 4.5.3 Too many recipients"
LOGIN_LATER = b"454 4.7.0 Too many failed logins, please try again later"

BAD_LINE = b"500 5.5.2 Not a line of printable text that ends in CR LF"
LINE_TOO_LONG = b"500 5.5.2 Line too long"
UNKNOWN_COMMAND = b"500 5.5.1 Command not recognised"
BAD_ARGUMENTS = b"501 5.5.4 Syntax error in parameters"
BAD_EXCHANGE = b"501 5.5.2 Not what this mechanism asks for"
NULL_RECIPIENT = b"501 5.1.3 A recipient cannot be null"
NOT_IMPLEMENTED = b"502 5.5.1 Command not implemented"
UNKNOWN_MECHANISM = b"504 5.5.4 Mechanism not supported"
LOGIN_FIRST = b"530 5.7.0 Log in first"
WRONG_LOGIN = b"535 5.7.8 Wrong user name or password"
NEEDS_TLS = b"538 5.7.11 STARTTLS first"
SAY_HELLO_FIRST = b"503 5.5.1 Say hello first"
MAIL_FIRST = b"503 5.5.1 MAIL first"
RECIPIENT_FIRST = b"503 5.5.1 No valid recipients"
LOGGED_IN_ALREADY = b"503 5.5.1 Logged in already"
NESTED_MAIL = b"503 5.5.1 MAIL was given already"
TLS_ALREADY = b"503 5.5.1 TLS is in use"
RELAY_DENIED = b"550 5.7.1 Relaying denied"
BAD_SENDER = b"553 5.1.7 Malformed address"
NEEDS_SMTPUTF8 = b"553 5.6.7 Non-ASCII address without SMTPUTF8"
NO_SUCH_RECIPIENT = b"550 5.1.1 No such recipient here"
BARE_LINE_ENDS = b"550 5.6.11 Bare CR, bare LF or NUL in the message"
TOO_BIG = b"552 5.3.4 Message too big"
ENDLESS_CONTENT = b"552 5.3.4 Message too big, and without an end"
NOT_FROM_THERE = b"554 5.7.1 Your address may not connect here"
NOT_IN_SYNC = b"554 5.5.0 SMTP protocol synchronisation"
NOT_SMTP = b"554 5.5.1 This is an SMTP server"
TOO_MANY_HOPS = b"554 5.4.6 Too many hops"
UNKNOWN_PARAMETER = b"555 5.5.4 Parameter not recognised"


class Refused(Exception):
    """A command is answered with this reply and changes nothing."""

    def __init__(self, reply: bytes) -> None:
        super().__init__(reply)
        self.reply = reply


class Farewell(Exception):
    """The session ends with this reply."""

    def __init__(self, reply: bytes) -> None:
        super().__init__(reply)
        self.reply = reply


def with_id(reply: bytes, number: str) -> bytes:
    """Add the id under which the log tells more."""
    return b"%s (error %s)" % (reply, number.encode())
