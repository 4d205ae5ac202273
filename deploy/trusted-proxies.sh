#!/bin/sh
# Whom nginx believes about where a request comes from: the proxies of SHOP_TRUSTED_PROXIES, the shop's own setting, with
# commas or spaces between them. The image runs this before nginx starts; it writes what nginx.conf includes.
set -euf # The setting is a list of words, never a pattern of files.
file=${1:-/etc/nginx/trusted-proxies.conf}
: > "$file"
for range in $(printf '%s' "${SHOP_TRUSTED_PROXIES-}" | tr ',' ' '); do
    case $range in
        unix:) ;;
        *[!0-9a-fA-F.:/]* | */*/* | /*)
            echo "SHOP_TRUSTED_PROXIES: $range is no address, no network and not unix:" >&2
            exit 1
            ;;
    esac
    echo "set_real_ip_from $range;" >> "$file"
done
