#!/usr/bin/env bash
# Makes a base image where no image registry can be reached, under the name that `kinitro env build` takes by default.
#
#   sudo scripts/base_image.sh [NAME] [MIRROR]
#
# Debian with Python 3.11 and pip, by debootstrap. This machine's own certificate authorities go in, so that package
# downloads of the build work behind a proxy of yours: use it on your machines only, never push it.
set -euo pipefail
name=${1:-python:3.11-slim-bookworm}
mirror=${2:-} # none: debootstrap's own default

if docker image inspect "$name" >/dev/null 2>&1; then
    echo "$name is already here."
    exit 0
fi
for tool in debootstrap docker tar; do
    command -v "$tool" >/dev/null || { echo "Error: $tool is missing. apt-get install docker.io debootstrap" >&2; exit 1; }
done
[ "$(id -u)" = 0 ] || { echo "Error: debootstrap needs root. Run: sudo $0" >&2; exit 1; }

root=$(mktemp -d /var/tmp/kinitro-base.XXXXXX)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"
debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv,python3-pip bookworm "$root" ${mirror:+"$mirror"}
ln -s python3 "$root/usr/bin/python"
find /usr/local/share/ca-certificates -name '*.crt' -exec cp {} "$root/usr/local/share/ca-certificates/" \;
chroot "$root" update-ca-certificates >/dev/null
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
tar -C "$root" --one-file-system -c . | docker import \
    --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8' \
    --change 'ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt PIP_DISABLE_PIP_VERSION_CHECK=1' \
    --change 'CMD ["python3"]' - "$name" >/dev/null
echo "$name is made."
