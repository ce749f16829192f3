"""The calls of accounts and sessions: the part of the table in `routes.py` that the room `auth/` serves."""

from __future__ import annotations

from onsale.auth import account_handlers as account
from onsale.auth import errors, schemas
from onsale.auth import handlers as auth
from onsale.server.route import PAGE_BY_ID, Query, Route, page

ACCOUNTS = (
    Route(
        "POST", "/v1/sessions", auth.sign_in, "sign_in", "Sign in.",
        body=schemas.SignIn, reply=schemas.SessionGrant, status=201,
        problems=(
            errors.InvalidCredentials, errors.TooManyRequests, errors.CrossSite,
            errors.AlreadySignedIn,
        ),
    ),
    Route(
        "POST", "/v1/sessions/refresh", auth.refresh, "refresh", "Exchange a refresh token for the next pair.",
        body=schemas.Refresh, is_body_optional=True, reply=schemas.SessionGrant,
        problems=(errors.RefreshInvalid, errors.CrossSite),
    ),
    Route(
        "GET", "/v1/sessions", auth.list_sessions, "list_sessions", "Where this account is signed in.", "buyer",
        reply=schemas.SessionList, query=PAGE_BY_ID,
    ),
    Route(
        "DELETE", "/v1/sessions", auth.sign_out_everywhere, "sign_out_everywhere", "Sign out of every device.",
        "buyer", status=204,
    ),
    Route(
        "DELETE", "/v1/sessions/current", auth.sign_out, "sign_out", "Sign out here.", "buyer", status=204,
    ),
    Route(
        "DELETE", "/v1/sessions/{session}", auth.sign_out_session, "sign_out_session", "Sign out of one device.",
        "buyer", status=204, problems=(errors.SessionUnknown,), pattern="/v1/sessions/{session:(?!refresh$)[^/]+}",
    ),
    Route(
        "POST", "/v1/stream-keys", auth.create_stream_key, "create_stream_key",
        "A key that opens one event stream, for clients that can send no header.", "holder",
        reply=schemas.StreamKeyReply, status=201,
    ),
    Route(
        "POST", "/v1/accounts", account.sign_up, "sign_up",
        "Sign up; a letter says how to go on. The answer never tells whether the address has an account.",
        body=schemas.SignUp, reply=schemas.Accepted, status=202, problems=(errors.TooManyRequests,),
    ),
    Route(
        "POST", "/v1/accounts/verification-codes", account.send_code, "send_code", "Have another code sent.",
        body=schemas.EmailOnly, reply=schemas.Accepted, status=202, problems=(errors.TooManyRequests,),
    ),
    Route(
        "POST", "/v1/accounts/verification", account.verify, "verify",
        "Show by a letter's code that the address is yours. Refresh tokens afterwards: they say so from then on.",
        body=schemas.Verify, status=204, problems=(errors.CodeInvalid, errors.TooManyRequests),
    ),
    Route(
        "GET", "/v1/accounts", account.list_accounts, "list_accounts", "Every account, newest first.", "master",
        reply=schemas.AccountList,
        query=(
            *page("[0-9a-z-]{1,40}"),
            Query("email", {"type": "string", "format": "email"}, "Only the account of this address."),
        ),
    ),
    Route(
        "POST", "/v1/password-resets", account.send_reset, "send_reset", "Have a link to a new password sent.",
        body=schemas.EmailOnly, reply=schemas.Accepted, status=202, problems=(errors.TooManyRequests,),
    ),
    Route(
        "POST", "/v1/password-resets/confirmation", account.reset_password, "reset_password",
        "Choose a new password by a letter's token; every device is signed out.",
        body=schemas.PasswordReset, status=204,
        problems=(errors.ResetInvalid, errors.TooManyRequests),
    ),
    Route(
        "PUT", "/v1/me/password", account.change_password, "change_password",
        "Change the password; every device is signed out.", "buyer", body=schemas.PasswordChange, status=204,
        problems=(errors.CurrentPasswordWrong, errors.TooManyRequests),
    ),
    Route(
        "PATCH", "/v1/me", account.change_me, "change_me", "Change your profile.", "buyer",
        body=schemas.MePatch, reply=schemas.Me,
    ),
    Route(
        "DELETE", "/v1/me", account.delete_me, "delete_me", "Delete your account; orders stay, without your name.",
        "buyer", status=204,
    ),
    Route(
        "GET", "/v1/me/addresses", account.list_addresses, "list_addresses", "Your address book, newest first.",
        "buyer", reply=schemas.AddressList, query=PAGE_BY_ID,
    ),
    Route(
        "POST", "/v1/me/addresses", account.add_address, "add_address", "Put an address into your book.", "buyer",
        body=schemas.AddressNew, reply=schemas.AddressReply, status=201,
        problems=(errors.AddressBookFull,),
    ),
    Route(
        "GET", "/v1/me/addresses/{address}", account.show_address, "show_address", "One address of your book.",
        "buyer", reply=schemas.AddressReply, problems=(errors.AddressUnknown,),
    ),
    Route(
        "PATCH", "/v1/me/addresses/{address}", account.change_address, "change_address", "Change an address.",
        "buyer", body=schemas.AddressPatch, reply=schemas.AddressReply,
        problems=(errors.AddressUnknown,),
    ),
    Route(
        "DELETE", "/v1/me/addresses/{address}", account.remove_address, "remove_address", "Take an address out.",
        "buyer", status=204, problems=(errors.AddressUnknown,),
    ),
    Route("GET", "/v1/me", auth.show_me, "show_me", "The account that asks.", "buyer", reply=schemas.Me),
    Route(
        "GET", "/.well-known/jwks.json", auth.show_keys, "show_keys", "The public keys of passes.",
        reply=schemas.KeySet,
    ),
)  # fmt: skip
