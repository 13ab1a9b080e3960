"""Proto to price lists and re-pricing, and back; pure."""

from typing import Final, cast

from comitia.cost.v1 import ledger_service_pb2, price_list_pb2, pricing_service_pb2
from services.cost.domain.price_rows import ListFormat
from services.cost.domain.price_table import Supersession
from services.cost.domain.repricing import Repriced
from services.cost.domain.unknown_price import UnknownPrice, UnknownPriceRule
from services.cost.transport import fields
from services.cost.transport.convert import prices_to_proto
from services.cost.usecases.import_prices import ImportOrder
from services.cost.usecases.reprice_events import RepriceOrder
from services.meshkit.core.errors import Invalid

_MOST_CONTENT: Final = 1_000_000
_MOST_SOURCE: Final = 200
_MOST_NOTE: Final = 200
#: Changes and models that an answer shows.
_MOST_SHOWN: Final = 500
_FORMATS: Final = {int(form): form for form in ListFormat}
_RULES: Final = {int(rule): rule for rule in UnknownPriceRule}


def to_import_order(request: pricing_service_pb2.ImportPricesRequest) -> ImportOrder:
    """Reads what to import. Raises: Invalid."""
    form = _FORMATS.get(request.format)
    if form is None:
        raise Invalid("format", "must be CSV or JSON")
    return ImportOrder(
        content=fields.text_of(request.content, "content", most=_MOST_CONTENT, required=True),
        form=form,
        source=fields.text_of(request.source, "source", most=_MOST_SOURCE, required=True),
        unit_confirmed=request.confirm_unit,
    )


def imported_to_proto(change: Supersession) -> pricing_service_pb2.ImportPricesResponse:
    """Writes what an import changes."""
    return pricing_service_pb2.ImportPricesResponse(
        changes=[
            price_list_pb2.PriceChange(
                before=[row for price in one.before for row in prices_to_proto(price)], after=prices_to_proto(one.after)
            )
            for one in change.changes[:_MOST_SHOWN]
        ],
        change_count=len(change.changes),
        unchanged_count=change.unchanged,
    )


def to_reprice_order(request: ledger_service_pb2.RepriceEventsRequest) -> RepriceOrder:
    """Reads what to price anew. Raises: Invalid."""
    if not request.HasField("start_time"):
        raise Invalid("start_time", "is required")
    start = fields.time_of(request.start_time, "start_time")
    end = fields.time_of(request.end_time, "end_time") if request.HasField("end_time") else None
    if end is not None and end <= start:
        raise Invalid("end_time", "must be after start_time")
    told = fields.text_of(request.note, "note", most=_MOST_NOTE)
    return RepriceOrder(start=start, end=end, note=told, unpriced=request.unpriced)


def repriced_to_proto(repriced: Repriced) -> ledger_service_pb2.RepriceEventsResponse:
    """Writes the difference per model."""
    return ledger_service_pb2.RepriceEventsResponse(
        models=[
            price_list_pb2.RepricedModel(
                provider=one.provider,
                model=one.model,
                event_count=one.events,
                before_nano_usd=one.before,
                after_nano_usd=one.after,
            )
            for one in repriced.models[:_MOST_SHOWN]
        ],
        event_count=repriced.events,
        before_nano_usd=repriced.before,
        after_nano_usd=repriced.after,
    )


def to_unknown_price(request: pricing_service_pb2.SetUnknownPriceRequest) -> UnknownPrice:
    """Reads what to do with calls whose price is unknown. Raises: Invalid."""
    rule = _RULES.get(request.rule)
    if rule is None:
        raise Invalid("rule", "must be REFUSE or FLAG")
    return UnknownPrice(rule=rule, ceiling=request.ceiling_nano_usd_per_million)


def unknown_price_to_proto(rule: UnknownPrice, *, least: int) -> price_list_pb2.UnknownPrice:
    """Writes what is done with them."""
    return price_list_pb2.UnknownPrice(
        rule=cast(price_list_pb2.UnknownPriceRule.ValueType, int(rule.rule)),
        ceiling_nano_usd_per_million=rule.ceiling_from(least) or 0,
        least_ceiling_nano_usd_per_million=least,
    )
