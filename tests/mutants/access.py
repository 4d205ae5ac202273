"""Breaks of who may do what: tokens, owners, prices, addresses, repeats of admins."""

from tests.mutants.mutant import Edit, Mutant, breaks

AUTH, ORDERS = "shop/auth.py", "shop/orders/repository.py"
OF_AUTH, OF_ORDERS, OF_INPUT = "tests/test_auth.py", "tests/api/test_orders.py", "tests/api/test_purchase_bad_input.py"
OF_MASS_ASSIGNMENT = "tests/security/test_mass_assignment.py"

MUTANTS = (
    breaks(
        "order_of_somebody_else",
        "Whoever knows the id of an order may read and cancel it.",
        ORDERS,
        "    query = select(Order).where(Order.id == order_id, Order.user_id == user_id)\n",
        "    query = select(Order).where(Order.id == order_id)\n",
        f"{OF_ORDERS}::test_the_order_of_somebody_else_is_not_found_recorded_or_not",
    ),
    breaks(
        "unrecorded_order_of_somebody_else",
        "An order is anybody's until it is recorded.",
        "shop/orders/service.py",
        "    if entry is None or entry.user_id != buyer_id:\n",
        "    if entry is None:\n",
        f"{OF_ORDERS}::test_the_order_of_somebody_else_is_not_found_recorded_or_not",
    ),
    breaks(
        "orders_of_everybody",
        "The list of one's orders has everybody's.",
        ORDERS,
        "    query = select(Order).where(Order.user_id == user_id).order_by(",
        "    query = select(Order).order_by(",
        OF_ORDERS,
    ),
    Mutant(
        "price_from_the_request",
        "The buyer says what an order costs.",
        (
            Edit(
                "shop/orders/schemas.py",
                "    quantity: Annotated[int, Field(strict=True, ge=1, le=QUANTITY_MAX, examples=[2])]\n",
                "    quantity: Annotated[int, Field(strict=True, ge=1, le=QUANTITY_MAX, examples=[2])]\n"
                "    price_minor: Annotated[int | None, Field(ge=0, le=1_000_000)] = None\n",
            ),
            Edit(
                "shop/orders/router.py",
                "        units={line.product_id: line.quantity for line in wish.lines},\n",
                "        units={line.product_id: line.quantity for line in wish.lines},\n"
                "        prices={line.product_id: line.price_minor for line in wish.lines},\n",
            ),
            Edit(
                "shop/orders/placing.py",
                "hold_seconds: int\n) -> Placed:",
                "hold_seconds: int, prices: Mapping[int, int | None]\n) -> Placed:",
            ),
            Edit(
                "shop/orders/placing.py",
                "    offered = await _offered(session, units)\n",
                "    offered = await _offered(session, units)\n"
                "    for product in offered:\n"
                "        session.expunge(product)\n"
                "        product.price_minor = prices[product.id] or product.price_minor\n",
            ),
        ),
        (OF_MASS_ASSIGNMENT,),
    ),
    breaks(
        "unknown_members_are_taken",
        "A purchase may say more than how many units it wants.",
        "shop/seckill/requests.py",
        "class PurchaseBody(msgspec.Struct, forbid_unknown_fields=True):",
        "class PurchaseBody(msgspec.Struct):",
        OF_MASS_ASSIGNMENT,
        OF_INPUT,
    ),
    breaks(
        "body_without_bound",
        "A purchase may be as long as a client likes.",
        "shop/seckill/requests.py",
        "        if len(body) > bytes_max:\n",
        "        if False:\n",
        f"{OF_INPUT}::test_a_body_of_more_than_four_kilobytes_is_too_large_whether_it_says_so_or_not",
    ),
    breaks(
        "every_proxy_is_trusted",
        "A client says himself where he comes from, and gets round every limit by address.",
        "shop/app/forwarding.py",
        "        self._proxies = settings.proxies\n",
        '        self._proxies = settings.proxies.parse("*")\n',
        "tests/security/test_addresses.py",
    ),
    breaks(
        "token_without_audience",
        "A token that was made for another service is good here.",
        AUTH,
        "        if claims.iss != self._issuer or claims.aud != self._audience:\n",
        "        if claims.iss != self._issuer:\n",
        OF_AUTH,
    ),
    breaks(
        "token_without_issuer",
        "A token that somebody else has issued is good here.",
        AUTH,
        "                issuer=self._issuer,\n",
        "",
        OF_AUTH,
    ),
    breaks(
        "signature_not_compared",
        "Anybody can write a token.",
        AUTH,
        "        if not hmac.compare_digest(base64url(self._hmac.digest(signed)), signature):\n",
        "        if not signature:\n",
        OF_AUTH,
    ),
    breaks(
        "token_for_ever",
        "A token that was good once is good for ever.",
        AUTH,
        "        if known is not None and known.expires_at > time.time():\n",
        "        if known is not None:\n",
        OF_AUTH,
    ),
    breaks(
        "blocked_buyer_buys",
        "A user who was blocked goes on buying.",
        "shop/seckill/lane.py",
        "        self._revocations.check(identity)\n",
        "",
        f"{OF_INPUT}::test_a_blocked_buyer_is_refused",
    ),
    breaks(
        "blocked_user_goes_on",
        "A user who was blocked may do everything but buy.",
        AUTH,
        "    revocations.check(identity)\n",
        "",
        "tests/security/test_roles.py::test_a_blocked_account_may_do_nothing_that_needs_a_token",
    ),
    breaks(
        "revoked_token_goes_on",
        "A token is good until it runs out, whatever became of the password or the role.",
        AUTH,
        "        if least is None or identity.generation >= least:\n",
        "        if least != BLOCKED:\n",
        f"{OF_AUTH}::test_only_the_newest_generation_known_and_later_ones_are_good",
    ),
    breaks(
        "last_admin_leaves",
        "The last admin gives their role away, and nobody may do anything in the shop.",
        "shop/users/service.py",
        "    if list(await repository.lock_admins(session)) == [user_id]:\n",
        "    if False:\n",
        "tests/users/test_sessions.py::test_of_two_last_admins_who_leave_at_once_one_stays",
    ),
    breaks(
        "password_of_one_keyboard",
        "Whoever types a letter and its accent one by one has another password.",
        "shop/users/passwords.py",
        '    return unicodedata.normalize("NFC", spaced)\n',
        "    return spaced\n",
        "tests/users/test_passwords.py",
    ),
    breaks(
        "everybody_is_an_admin",
        "A shopper changes prices and stock.",
        AUTH,
        "    if user.role != ADMIN:\n",
        "    if False:\n",
        "tests/security/test_roles.py::test_only_the_role_admin_is_an_admins",
    ),
    breaks(
        "account_without_limit",
        "Many addresses guess the password of one account.",
        "shop/users/throttle.py",
        "    await limit(limiters.account, email)\n",
        "",
        "tests/users/test_throttle.py",
    ),
    breaks(
        "key_of_another_request",
        "An admin who uses a key again for something else is told what came of the first.",
        "shop/idempotency/service.py",
        "    if kept.fingerprint != asked.fingerprint:\n",
        "    if False:\n",
        "tests/idempotency/test_once.py",
    ),
    breaks(
        "production_trusts_everybody",
        "A production shop that is told to trust every proxy starts.",
        "shop/settings/__init__.py",
        '        if self.environment == "production" and (wide',
        '        if self.environment == "never" and (wide',
        "tests/security/test_addresses.py",
    ),
    breaks(
        "development_secret_in_production",
        "Tokens of a shop in production are signed with the secret of this repository.",
        "shop/settings/__init__.py",
        "(secret == DEVELOPMENT_SECRET or len(secret) < SECRET_BYTES_MIN)",
        "False",
        "tests/test_cli.py::test_production_refuses_a_weak_secret",
    ),
    breaks(
        "webhook_to_a_private_address",
        "A merchant's webhook reads what only this machine may read.",
        "shop/notifications/addresses.py",
        "    if not private_allowed and not all(is_public(address) for address in addresses):\n",
        "    if False:\n",
        "tests/notifications/test_addresses.py",
    ),
    breaks(
        "client_that_says_who_it_is",
        "Of X-Forwarded-For the first entry counts, which the client has written.",
        "shop/client_addresses.py",
        '        for entry in reversed(",".join(forwarded_for).split(",")):\n',
        '        for entry in ",".join(forwarded_for).split(","):\n',
        "tests/security/test_addresses.py::test_the_client_is_the_nearest_address_that_is_no_trusted_proxy",
    ),
)
