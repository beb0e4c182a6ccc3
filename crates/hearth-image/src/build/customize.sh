# Turns the packages' directory, $1, into Hearth's root filesystem and packs it. Runs as root of mmdebstrap's
# namespace, outside the directory; the results are left in $1/.hearth, which is not packed.
# HEARTH_USER is the ordinary user's name, SOURCE_DATE_EPOCH every file's time, HEARTH_UUID the filesystem's id.
set -eu
root=$1
out=$root/.hearth
step() { echo "hearth-step: $*"; }

step users
chroot "$root" useradd --create-home --uid 1000 --user-group --shell /bin/bash "$HEARTH_USER"
chroot "$root" usermod --password '*' root
printf '%s ALL=(ALL:ALL) NOPASSWD: ALL\n' "$HEARTH_USER" > "$root/etc/sudoers.d/hearth"
chmod 0440 "$root/etc/sudoers.d/hearth"
install -d -m 0755 -o 1000 -g 1000 "$root/workspace"

step settings
printf 'hearth\n' > "$root/etc/hostname"
printf '127.0.0.1\tlocalhost\n127.0.1.1\thearth\n::1\tlocalhost ip6-localhost ip6-loopback\n' > "$root/etc/hosts"
printf 'LANG=C.UTF-8\n' > "$root/etc/default/locale"
rm -f "$root/etc/resolv.conf"
: > "$root/etc/resolv.conf"
: > "$root/etc/machine-id"
rm -f "$root/var/lib/dbus/machine-id"
chmod 0644 "$root/etc/hostname" "$root/etc/hosts" "$root/etc/resolv.conf" "$root/etc/default/locale"
chmod 0444 "$root/etc/machine-id"
# So that packages installed later in a sandbox stay small too.
mv "$root/etc/dpkg/dpkg.cfg.d/99mmdebstrap" "$root/etc/dpkg/dpkg.cfg.d/90hearth"
printf 'Acquire::Languages "none";\n' > "$root/etc/apt/apt.conf.d/90hearth"
rm -f "$root/etc/apt/apt.conf.d/99mmdebstrap"

step packages
mkdir -p "$out/view"
chroot "$root" dpkg-query --show --showformat '${Package}\t${Version}\t${Architecture}\n' > "$out/packages"

step tidy
# mmdebstrap disabled these two so that no package starts a daemon; it does not mind finding them restored.
[ ! -e "$root/sbin/start-stop-daemon.REAL" ] || mv -f "$root/sbin/start-stop-daemon.REAL" "$root/sbin/start-stop-daemon"
rm -f "$root/usr/sbin/policy-rc.d" "$root/etc/apt/apt.conf.d/00mmdebstrap"
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/var/cache/ldconfig/* "$root"/var/cache/debconf/*-old
rm -rf "$root"/var/lib/dpkg/*-old "$root"/var/log/apt "$root"/var/log/*.log "$root"/run/* "$root"/tmp/* "$root"/var/tmp/*
mkdir -p "$root/var/lib/apt/lists/partial" "$root/var/cache/apt/archives/partial" "$root/var/log/apt"
rm -f "$root/etc/passwd-" "$root/etc/group-" "$root/etc/shadow-" "$root/etc/gshadow-" "$root/etc/subuid-" "$root/etc/subgid-"

# Every file gets one time in the image, so Python must see that time when it records its sources' times: otherwise
# it would find each of its compiled files stale, and compile the module again at every start.
if [ -x "$root/usr/bin/python3" ]; then
  step compile
  set --
  for directory in "$root"/usr/lib/python3* "$root"/usr/share/python3; do set -- "$@" "${directory#"$root"}"; done
  # Inside, because out here an absolute link leads to a file of the host.
  chroot "$root" find "$@" -name __pycache__ -prune -exec rm -rf {} +
  chroot "$root" find "$@" -name '*.py' -exec touch -d "@$SOURCE_DATE_EPOCH" {} +
  # A package may carry files for another Python, which fail to compile and are none of ours.
  chroot "$root" python3 -m compileall -q -f --invalidation-mode timestamp "$@" || true
fi

step pack
# A plain bind mount shows the directory without what is mounted in it (/proc, /sys, /dev). This namespace is not the
# host's, but mmdebstrap is to find it as it was.
view=$out/view
trap 'umount "$view/dev" "$view" 2>/dev/null || true' EXIT
mount --bind "$root" "$view"
mount -t tmpfs -o mode=0755,size=64k none "$view/dev"
mkfs.erofs --quiet -T"$SOURCE_DATE_EPOCH" -U"$HEARTH_UUID" --exclude-path=.hearth "$out/rootfs.erofs" "$view"
umount "$view/dev" "$view"
trap - EXIT
step packed
