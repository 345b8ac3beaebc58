package openiscsi

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"vcn/hostops"
	"vcn/internal/claims"
)

const (
	defaultTimeout = time.Minute
	timeoutMin     = time.Second
	// initiatorBytesMax is the longest iSCSI name (RFC 7143 4.2.7.1).
	initiatorBytesMax = 223
)

// Config of the driver.
type Config struct {
	// Initiator is this host's iSCSI name, hostops.InitiatorIQN(host).
	Initiator string
	// Timeout bounds one Attach or Detach; 0 means 60 s.
	Timeout time.Duration
	// Records is the directory of open-iscsi's records; empty finds it:
	// /var/lib/iscsi where that exists, else /etc/iscsi.
	Records string
	Log     *slog.Logger
}

// paths are where the host shows itself; tests put a tree of their own here.
type paths struct{ sys, proc, dev, rules string }

var hostPaths = paths{sys: "/sys", proc: "/proc", dev: "/dev", rules: "/run/udev/rules.d"}

// Driver implements hostops.Initiators.
type Driver struct {
	cfg     Config
	log     *slog.Logger
	paths   paths
	records records
	run     func(ctx context.Context, name string, args ...string) error

	claims claims.Set // by target
}

var _ hostops.Initiators = (*Driver)(nil)

var initiatorPattern = regexp.MustCompile(`^iqn\.[0-9]{4}-[0-9]{2}\.[a-z0-9.-]+(:[a-z0-9.:-]+)?$`)

// ErrNoInitiator: this host has no open-iscsi.
var ErrNoInitiator = errors.New("the kernel's iSCSI initiator is not installed here")

// New prepares the host: our interface record, and the udev rule that keeps the
// host's hands off guests' disks. It warns of an LVM that would look at them.
// Without open-iscsi it is ErrNoInitiator.
func New(c Config) (*Driver, error) {
	d, err := newDriver(c, hostPaths)
	if err != nil {
		return nil, fmt.Errorf("use the kernel's initiator: %w", err)
	}
	if _, err := exec.LookPath("iscsiadm"); err != nil {
		return nil, fmt.Errorf("use the kernel's initiator: install open-iscsi: %w", ErrNoInitiator)
	}
	ctx, cancel := context.WithTimeout(context.Background(), d.cfg.Timeout)
	defer cancel()
	if err := d.prepare(ctx); err != nil {
		return nil, fmt.Errorf("use the kernel's initiator: %w", err)
	}
	return d, nil
}

func newDriver(c Config, p paths) (*Driver, error) {
	if len(c.Initiator) > initiatorBytesMax || !initiatorPattern.MatchString(c.Initiator) {
		return nil, fmt.Errorf("initiator %q is no IQN: %w", c.Initiator, hostops.ErrInvalid)
	}
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	if c.Timeout < timeoutMin {
		return nil, fmt.Errorf("timeout of %v: want at least %v: %w", c.Timeout, timeoutMin, hostops.ErrInvalid)
	}
	if c.Records == "" {
		c.Records = "/etc/iscsi"
		if fi, err := os.Stat("/var/lib/iscsi"); err == nil && fi.IsDir() {
			c.Records = "/var/lib/iscsi"
		}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Driver{
		cfg: c, log: c.Log, paths: p, run: run,
		records: records{root: c.Records, iface: ifaceName(c.Initiator)},
	}, nil
}

// ifaceName names our interface record: two clusters that share a host, each
// with a name of its own for it, do not share one.
func ifaceName(initiator string) string {
	sum := sha256.Sum256([]byte(initiator))
	return hostops.Mark + "-" + hex.EncodeToString(sum[:4])
}

func (d *Driver) prepare(ctx context.Context) error {
	if err := d.records.sweep(); err != nil {
		return err
	}
	if err := d.records.put(d.records.ifacePath(), ifaceText(d.records.iface, d.cfg.Initiator)); err != nil {
		return err
	}
	// Proves that iscsiadm reads its records where they are written here.
	if err := d.run(ctx, "iscsiadm", "-m", "iface", "-I", d.records.iface); err != nil {
		return fmt.Errorf("open-iscsi does not read its records in %s: %w", d.records.root, err)
	}
	if err := d.installRule(ctx); err != nil {
		return err
	}
	d.checkLVM(ctx)
	return nil
}

// check says whether an access can be used at all. Everything goes into lines
// of a file, so nothing may break out of its line.
func (d *Driver) check(i hostops.ISCSIDisk) error {
	invalid := func(format string, a ...any) error {
		return fmt.Errorf(format+": %w", append(a, hostops.ErrInvalid)...)
	}
	if err := checkTarget(i.IQN); err != nil {
		return err
	}
	switch {
	case !i.Portal.IsValid() || i.Portal.Port() == 0 || i.Portal.Addr().IsUnspecified() || i.Portal.Addr().Zone() != "":
		return invalid("portal %q of %s", i.Portal, i.IQN)
	case i.Initiator != "" && i.Initiator != d.cfg.Initiator:
		return invalid("initiator %q: this host is %s", i.Initiator, d.cfg.Initiator)
	case i.LUN < 0 || i.LUN > 255:
		return invalid("LUN %d is not within 0-255", i.LUN)
	case !userPattern.MatchString(i.User):
		return invalid("CHAP user %q: want 1-64 letters, digits, '_', '+' and '-'", i.User)
	case !secretPattern.MatchString(i.Secret):
		return invalid("CHAP secret of %d characters: want 12-64 without blanks", len(i.Secret))
	}
	return nil
}

var (
	userPattern   = regexp.MustCompile(`^[a-zA-Z0-9_+-]{1,64}$`)
	secretPattern = regexp.MustCompile(`^[!-~]{12,64}$`)
)

// checkTarget says whether the name is of a target of ours.
func checkTarget(iqn string) error {
	volume, ours := strings.CutPrefix(iqn, hostops.TargetIQN(""))
	if !ours {
		return fmt.Errorf("target %q is none of ours: %w", iqn, hostops.ErrInvalid)
	}
	return hostops.CheckVolumeID(volume)
}

// devicePath is udev's name of a unit, which stays the same over sessions
// (systemd's udev-builtin-path_id.c, handle_scsi_iscsi).
func (d *Driver) devicePath(s session, lun int) string {
	name := fmt.Sprintf("ip-%s:%d-iscsi-%s-lun-%d", s.portal.Addr(), s.portal.Port(), s.target, lun)
	return filepath.Join(d.paths.dev, "disk", "by-path", name)
}
