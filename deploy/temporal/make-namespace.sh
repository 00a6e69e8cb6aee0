#!/bin/sh
# Makes the namespace with its retention and search attributes. Again is fine.
set -eu
: "${TEMPORAL_ADDRESS:?}" "${TEMPORAL_NAMESPACE:?}" "${TEMPORAL_RETENTION:?}"
attributes="UpliftTenant UpliftModule UpliftFrom UpliftTo UpliftPhase UpliftOutcome UpliftRollout UpliftActor"

operator() {
    # Named each time: of these commands some read TEMPORAL_NAMESPACE and some do not. The address they all read.
    temporal operator "$@" --namespace "$TEMPORAL_NAMESPACE"
}

# All parts of the server know a new namespace, or a new attribute, only after some seconds.
patiently() {
    tries=0
    until "$@"; do
        tries=$((tries + 1))
        if [ "$tries" -ge 30 ]; then
            echo "gave up: $*" >&2
            return 1
        fi
        sleep 2
    done
}

known() {
    operator search-attribute list | grep -qw "$1"
}

patiently temporal operator cluster health
if operator namespace describe >/dev/null 2>&1; then
    operator namespace update --retention "$TEMPORAL_RETENTION"
else
    operator namespace create --retention "$TEMPORAL_RETENTION"
fi
patiently operator search-attribute list >/dev/null
for attribute in $attributes; do
    known "$attribute" || patiently operator search-attribute create --name "$attribute" --type Keyword
done
for attribute in $attributes; do
    patiently known "$attribute"
done
echo "namespace $TEMPORAL_NAMESPACE is ready"
