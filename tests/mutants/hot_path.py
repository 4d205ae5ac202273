"""Breaks of the purchase between the socket and the script: the lane, the group commit, the latch, the limiter."""

from tests.mutants.mutant import Edit, Mutant, breaks

GROUP, LATCH, PURCHASE = (f"shop/seckill/{name}.py" for name in ("group_commit", "latch", "purchase"))
LEDGER, REDIS, LIMITER = "shop/ledger/client.py", "shop/redis.py", "shop/rate_limit.py"
SENDING, OF_SENDING = "shop/server/sending.py", "tests/server/connections/test_sending.py"
OF_DEFERRED, OF_DATE = "tests/server/connections/test_deferred.py", "tests/server/test_date.py"
OF_PURCHASE, OF_REPEATS, OF_LATCH, OF_LIMITER = (
    "tests/api/test_purchase.py",
    "tests/api/test_purchase_repeats.py",
    "tests/selling/test_latch.py",
    "tests/selling/test_rate_limit.py",
)
KNOWN_BY_A_PROCESS = "tests/recovery/test_losses.py::test_what_only_a_living_process_knows_is_reported_by_it"

MUTANTS = (
    breaks(
        "last_answer_is_lost",
        "A connection is closed before what was written for it has left.",
        SENDING,
        "        self.flush()\n        self.transport.close()\n",
        "        self.transport.close()\n",
        f"{OF_SENDING}::test_a_connection_that_ends_sends_what_was_written_first",
    ),
    # Only both together: an error of one connection is its own alone.
    Mutant(
        "gone_connection_stops_the_others",
        "One client who hangs up takes the answers of all others along.",
        (
            Edit(
                SENDING,
                "        if data and not self.transport.is_closing():\n            self.transport.write(data)\n",
                "        if data:\n            if self.transport.is_closing():\n"
                "                raise ConnectionError\n            self.transport.write(data)\n",
            ),
            Edit(SENDING, "            alone(connection, connection.flush)\n", "            connection.flush()\n"),
        ),
        (OF_SENDING,),
    ),
    breaks(
        "endless_answer_is_kept",
        "An answer to somebody who does not read is kept in memory, however long it is.",
        SENDING,
        "        if len(self._unsent) > UNSENT_BYTES_MAX:\n            self.flush()\n",
        "",
        OF_SENDING,
    ),
    breaks(
        "answer_waits_for_a_long_iteration",
        "Under a crowd on the ordinary routes every answer comes a loop iteration later.",
        SENDING,
        "        self._outbox.send_if_late()\n",
        "",
        OF_SENDING,
    ),
    breaks(
        "date_of_a_refusal_stands_still",
        "The head of a refusal is made once and kept for ever, with the Date of that second.",
        "shop/server/admission_control.py",
        "        if own is not self._own_headers:",
        "        if self._own_headers is None:",
        OF_DATE,
    ),
    breaks(
        "date_of_an_answer_stands_still",
        "The server's own headers are made into bytes once and kept for ever, with the Date of that second.",
        "shop/server/heads.py",
        "    if own is not _own[0]:\n",
        "    if not _own[0]:\n",
        OF_DATE,
    ),
    breaks(
        "reset_connection_is_counted_for_ever",
        "An address that has reset as many connections as it may have is refused until the process ends.",
        "shop/server/serving.py",
        "        protocol.accepted_from = host\n",
        "",
        "tests/server/processes/test_server.py::test_a_connection_that_was_reset_is_counted_no_more",
    ),
    breaks(
        "first_half_is_lost",
        "Of a purchase that comes in pieces only the last one is deferred.",
        "shop/server/admission_control.py",
        "            self._deferred[connection] = before + data\n",
        "            self._deferred[connection] = data\n",
        f"{OF_DEFERRED}::test_what_was_deferred_is_answered_in_time_however_it_came",
    ),
    breaks(
        "next_request_is_swallowed",
        "What stands behind a purchase that is refused unparsed is taken for a part of it.",
        "shop/seckill/requests.py",
        "if length == len(data) - end - 4 else None",
        "if length is not None and length <= len(data) - end - 4 else None",
        "tests/selling/test_requests.py",
    ),
    breaks(
        "one_memory_for_all",
        "Sold out is told from memory to anybody, whoever they say they are.",
        "shop/seckill/admission.py",
        "        except ShopError:\n            return None\n",
        "        except ShopError:\n            refusal = found.sold_out.body(0, scope['path'], request_id)\n",
        OF_SENDING,
    ),
    breaks(
        "api_loads_scripts",
        "A Redis that was restarted on older data sells before anybody has compared it.",
        REDIS,
        "    except exceptions.NoScriptError as error:\n        raise ScriptsNotLoaded(str(error)) from error\n",
        "    except exceptions.NoScriptError:\n"
        "        await client.script_load(script(name).source)\n"
        "        return await client.evalsha(script(name).sha, len(keys), *keys, *arguments)\n",
        "tests/lua/test_reserve_unfit_ledgers.py::test_a_redis_without_the_scripts_executes_nothing_and_says_so",
    ),
    breaks(
        "lost_answer_is_not_executed",
        "A purchase that may have been executed is called refused.",
        PURCHASE,
        "        raise UnknownOutcome from error\n",
        "        raise NotReady from error\n",
        "tests/faults/test_network.py::"
        "test_a_purchase_that_the_network_held_up_is_not_done_when_nobody_waits_for_it_any_more",
    ),
    breaks(
        "api_may_honour",
        "Every purchase has the rights of a promise: no window, no pause, and what is held back.",
        LEDGER,
        'mode: Literal["", "honour"] = "",',
        'mode: Literal["", "honour"] = "honour",',
        f"{OF_PURCHASE}::test_before_the_start_nothing_is_sold_and_the_start_is_named",
    ),
    breaks(
        "deadline_never_comes",
        "A batch that was delayed on its way is executed long after its callers have left.",
        LEDGER,
        "deadline_ms = clock.now_ms + int(timeout * 1000)",
        "deadline_ms = clock.now_ms + 86_400_000",
        "tests/lua/test_reserve_times.py::test_what_a_caller_has_given_up_is_not_executed_when_redis_wakes_up",
    ),
    breaks(
        "process_forgets_its_last_order",
        "No process notices that the ledger has lost what it saw reserved.",
        GROUP,
        "                if answer.seq > self._last.seq:\n",
        "                if False:\n",
        KNOWN_BY_A_PROCESS,
    ),
    breaks(
        "process_forgets_its_promises",
        "What a ledger loses before it is recorded is lost, although a process knew it.",
        GROUP,
        '            if answer.word == "RESERVED":\n                self._unpersisted.append((request, answer))\n',
        '            if answer.word == "RESERVED":\n',
        KNOWN_BY_A_PROCESS,
    ),
    breaks(
        "repeat_is_no_promise",
        "A process that only repeated an answer cannot hand it in.",
        GROUP,
        '            elif answer.word == "REPLAYED" and answer.seq > self._watermark',
        '            elif answer.word == "NEVER" and answer.seq > self._watermark',
        "tests/recovery/test_memory.py",
    ),
    breaks(
        "waited_too_long_and_sent",
        "A purchase that its buyer has given up is sent to the ledger.",
        GROUP,
        "if waiting.queued_at < oldest}",
        "if waiting.queued_at < 0}",
        "tests/selling/test_group_commit.py",
    ),
    breaks(
        "lane_adopts_an_older_epoch",
        "A stale copy of the directory brings a process back to a ledger that is replaced.",
        "shop/seckill/registry.py",
        "if sale.epoch > self.epoch_of(sale.sale_id):",
        "if sale.epoch != self.epoch_of(sale.sale_id):",
        "tests/selling/test_group_commit.py",
    ),
    breaks(
        "released_order_is_the_answer",
        "Without a key, a buyer who cancelled gets the cancelled order for ever.",
        PURCHASE,
        '        if not (answer.word in {"REPLAYED", "MISMATCH"} and answer.fields[-1] == "released"):\n',
        "        if True:\n",
        f"{OF_REPEATS}::test_after_a_cancel_a_purchase_without_a_key_is_a_new_order",
    ),
    breaks(
        "key_of_everybody",
        "Two buyers with the same key have one order.",
        "shop/ledger/order_ids.py",
        'b"key\\0" + user_id.encode() + b"\\0" + key.encode()',
        'b"key\\0" + key.encode()',
        f"{OF_REPEATS}::test_a_key_belongs_to_one_buyer_and_one_sale",
    ),
    # Only both together: a latch that closes too early asks the ledger until it has read the winners, and is opened
    # in that very moment, so that closing too early changes no answer.
    Mutant(
        "latch_closes_too_early",
        "Too few units for one wish close the sale for everybody.",
        (
            Edit(
                PURCHASE,
                '        if answer.fields[1] == "0":\n            group',
                "        if True:\n            group",
            ),
            Edit(LATCH, "        if pulse is None or pulse.available > 0:\n", "        if pulse is None:\n"),
        ),
        (f"{OF_LATCH}::test_too_few_units_for_one_wish_do_not_close_the_latch",),
    ),
    breaks(
        "latch_stays_closed",
        "A unit that came back is never sold by a process that was sold out.",
        LATCH,
        "        if pulse is None or pulse.available > 0:\n",
        "        if pulse is None:\n",
        OF_LATCH,
    ),
    breaks(
        "latch_speaks_without_knowing_the_winners",
        "A winner's retry is told that everything is sold.",
        LATCH,
        "        if winners is None:\n            return False\n",
        "        if winners is None:\n            return True\n",
        OF_LATCH,
    ),
    breaks(
        "latch_keeps_old_winners",
        "Who won after the bitmap was read is taken for a loser.",
        LATCH,
        "        if pulse.seq != self.seq:\n            self.seq, self._winners = pulse.seq, None\n",
        "        self.seq = pulse.seq\n",
        OF_LATCH,
    ),
    breaks(
        "latch_deaf_to_a_pause",
        "A sale that is paused or over says that it is sold out.",
        LATCH,
        'or state != b"open" or clock_ms + int(skew_ms) >= int(ends_ms):',
        "or False:",
        OF_LATCH,
    ),
    breaks(
        "limiter_fails_closed",
        "Without its Redis the limiter refuses everybody.",
        LIMITER,
        "            LIMITER_ERRORS.inc()\n            return 0.0\n",
        "            LIMITER_ERRORS.inc()\n            return 1.0\n",
        OF_LIMITER,
    ),
    breaks(
        "purchase_limiter_fails_closed",
        "Without the limiter's Redis nobody buys.",
        LIMITER,
        "            return [0.0] * len(keys)\n",
        "            return [1.0] * len(keys)\n",
        f"{OF_LIMITER}::test_without_redis_the_bucket_of_the_process_decides",
    ),
    breaks(
        "limiter_fails_open",
        "Without the limiter's Redis everybody may ask as often as they like.",
        LIMITER,
        "        wait = arrival - now - self._tolerance_seconds\n        if wait > 0:\n            return wait\n",
        "",
        OF_LIMITER,
    ),
    breaks(
        "overload_gate_open",
        "A process takes more purchases than it can answer in time.",
        "shop/server/gate.py",
        "self._lag_seconds + ahead_seconds + queued_seconds > self._delay_seconds_max\n",
        "False\n",
        "tests/server/test_gate.py",
    ),
    breaks(
        "caller_takes_its_batch_along",
        "A batch that fails answers only one of its callers; the others wait for ever.",
        "shop/batching.py",
        "                for _, future in batch:\n                    if not future.done():\n"
        "                        future.set_exception(",
        "                for _, future in batch[:1]:\n                    if not future.done():\n"
        "                        future.set_exception(",
        "tests/selling/test_coalescer.py",
    ),
    breaks(
        "repeat_is_always_reserved",
        "A buyer whose order is paid is told that it waits for their money.",
        "shop/orders/repeats.py",
        "        statuses = {str(order.id): order.status for order in found}\n",
        "        statuses: dict[str, str] = {}\n",
        f"{OF_REPEATS}::test_after_a_cancel_a_late_duplicate_of_the_old_request_is_the_released_order",
    ),
)
