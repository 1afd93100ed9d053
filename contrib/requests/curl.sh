#!/bin/sh
# Sends a signed request to Mortise, or to MOR:
#
#   curl.sh NAME [PARAMETER=VALUE …]
#
# Without parameters it sends the example, which works in the world of `mortise serve --demo`. The environment says whom to ask, as whom and
# with which key: URL, API_USER, KEY; with REQUEST_ID the request is carried out once, however often it is sent.
# (Written by scripts/collection: change the operations' pages instead.)
set -eu

if [ $# = 0 ]; then
    sed -n '2,/^# (/s/^# \{0,1\}//p' "$0" | sed '$d' >&2
    exit 2
fi
URL="${URL:-http://127.0.0.1:3000/billing/api}"
API_USER="${API_USER:-username}"
KEY="${KEY:-456789}"
operation=$1
shift

# What the hash covers, in order, and the example's parameters.
case $operation in
    # Sells cards of a group.
    card_from_group_sell | buy_card_from_callingroup)
        hashed='email id quantity'
        [ $# -gt 0 ] || set -- 'id=6' 'quantity=2'
        ;;
    # Makes or tops up the card of a caller id.
    card_by_cli_update | cc_by_cli)
        hashed='user_id pin amount callerid cardgroup_id'
        [ $# -gt 0 ] || set -- 'callerid=123' 'amount=11.90' 'cardgroup_id=3'
        ;;
    # Makes cards.
    calling_cards_create)
        hashed='card_group_id cards_from cards_till'
        [ $# -gt 0 ] || set -- 'card_group_id=6' 'cards_from=2000000001' 'cards_till=2000000010'
        ;;
    # Lists cards.
    calling_cards_get)
        hashed=''
        [ $# -gt 0 ] || set -- 'number=111111100%' 'sold=yes' 'page=1' 'per_page=2'
        ;;
    # Changes a card.
    calling_card_update)
        hashed='card_id'
        [ $# -gt 0 ] || set -- 'card_id=1' 'name=Anna' 'batch_number=2026-11'
        ;;
    # Shows what is left on a card.
    card_balance_get)
        hashed='number'
        [ $# -gt 0 ] || set -- 'number=1111111000'
        ;;
    # Tops up a sold card.
    card_payment_add)
        hashed='description number amount currency'
        [ $# -gt 0 ] || set -- 'number=1111111000' 'amount=11.90' 'currency=USD' 'description=Top-up'
        ;;
    # Makes a card group.
    cc_group_create)
        hashed='name'
        [ $# -gt 0 ] || set -- 'name=Eleven dollar cards' 'pin_length=8' 'number_length=10' 'description=Ten dollars of calls' 'price_with_vat=11.90' 'tax_id=2'
        ;;
    # Shows a card group.
    card_group_get | show_calling_card_group)
        hashed='id'
        [ $# -gt 0 ] || set -- 'id=6'
        ;;
    # Lists card groups.
    cc_groups_get)
        hashed=''
        [ $# -gt 0 ] || set -- 'cc_group_id=6'
        ;;
    # Changes a card group.
    cc_group_update)
        hashed='cc_group_id'
        [ $# -gt 0 ] || set -- 'cc_group_id=3' 'description=Ten dollars of calls' 'price_with_vat=11.90' 'tax_id=2'
        ;;
    # Makes or changes a wholesale tariff.
    tariff_wholesale_update | wholesale_tariff)
        hashed='name id currency'
        [ $# -gt 0 ] || set -- 'name=Wholesale' 'currency=USD'
        ;;
    *)
        echo "no operation is called $operation" >&2
        exit 2
        ;;
esac

# The value of the parameter named first, among those that follow.
value() {
    wanted=$1
    shift
    for pair; do
        case $pair in "$wanted="*) printf %s "${pair#*=}" && return ;; esac
    done
}

sha1() {
    if command -v sha1sum >/dev/null; then sha1sum; else openssl dgst -sha1 -r; fi | cut -c1-40
}

signed=
for parameter in $hashed; do
    signed="$signed$(value "$parameter" "$@")"
done
hash=$(printf '%s%s' "$signed" "$KEY" | sha1)

for pair; do
    set -- "$@" --data-urlencode "$pair"
    shift
done
# shellcheck disable=SC2086 # CURL may come with options of its own
exec ${CURL:-curl} --silent --show-error ${REQUEST_ID:+--header "Idempotency-Key: $REQUEST_ID"} "$URL/$operation" \
    --data-urlencode "u=$API_USER" --data-urlencode "hash=$hash" "$@"
