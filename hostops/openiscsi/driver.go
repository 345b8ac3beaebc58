package openiscsi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"vcn/hostops"
)

const (
	dialTimeout  = 5 * time.Second
	flushTimeout = 10 * time.Second
	rescanMax    = 5 * time.Second
	cleanUpMax   = 20 * time.Second
	pollEvery    = 20 * time.Millisecond
)

// Attach implements hostops.Initiators. The unit of a session that is there
// already is looked at again, so that a volume that has grown shows its size.
func (d *Driver) Attach(ctx context.Context, i hostops.ISCSIDisk) (string, error) {
	if err := d.check(i); err != nil {
		return "", fmt.Errorf("attach: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, d.cfg.Timeout)
	defer cancel()
	unlock, err := d.claims.Claim(ctx, i.IQN)
	if err != nil {
		return "", fmt.Errorf("attach %s: wait for another call: %w", i.IQN, err)
	}
	defer unlock()
	path, err := d.attach(ctx, i)
	if err != nil {
		return "", fmt.Errorf("attach %s of %s: %w", i.IQN, i.Portal, err)
	}
	return path, nil
}

func (d *Driver) attach(ctx context.Context, i hostops.ISCSIDisk) (string, error) {
	here, err := d.ours(i.IQN)
	if err != nil {
		return "", err
	}
	kept := slices.IndexFunc(here, func(s session) bool { return d.same(s, i) })
	for n, s := range here {
		if n == kept {
			continue
		}
		if err := d.end(ctx, s); err != nil {
			return "", fmt.Errorf("replace its session: %w", err)
		}
	}
	if kept >= 0 {
		return d.keep(ctx, here[kept], i)
	}
	return d.login(ctx, i)
}

// ours returns our sessions to a target, with ErrForeign if somebody else has
// one as well.
func (d *Driver) ours(iqn string) ([]session, error) {
	all, err := sessions(d.paths.sys, iqn)
	if err != nil {
		return nil, err
	}
	var out []session
	for _, s := range all {
		switch {
		case s.target != iqn:
		case d.owns(s):
			out = append(out, s)
		default:
			err = fmt.Errorf("session %d is of initiator %q: %w", s.sid, s.initiator, hostops.ErrForeign)
		}
	}
	return out, err
}

// owns says whether a session is of this initiator. One that is being set up
// has no initiator name yet; its interface record tells.
func (d *Driver) owns(s session) bool {
	return s.initiator == d.cfg.Initiator || s.initiator == "" && s.iface == d.records.iface
}

// same says whether a session is what an access asks for.
func (d *Driver) same(s session, i hostops.ISCSIDisk) bool {
	return s.portal == i.Portal && s.user == i.User && s.secret == i.Secret && s.initiator == d.cfg.Initiator
}

// keep leaves a session alone and repairs what is around it.
func (d *Driver) keep(ctx context.Context, s session, i hostops.ISCSIDisk) (string, error) {
	if err := d.writeRecord(i, 0); err != nil {
		return "", err
	}
	if s.up() {
		if err := d.waitForEver(s); err != nil {
			return "", err
		}
		if err := d.rescan(ctx, s); err != nil {
			// The session may have been lost this moment: then I/O waits.
			d.log.Warn("look at a unit's size again", "target", s.target, "err", err)
		}
	}
	return d.await(ctx, s.sid, i)
}

// waitForEver repairs what somebody may have changed. The kernel takes it only
// while the session is up, and shows -1 as "off".
func (d *Driver) waitForEver(s session) error {
	if s.recovery == recoveryOff {
		return nil
	}
	path := filepath.Join(d.paths.sys, "class", "iscsi_session", "session"+strconv.Itoa(s.sid), "recovery_tmo")
	if err := os.WriteFile(path, []byte(recoveryOff), 0); err != nil {
		return fmt.Errorf("let its I/O wait for ever: %w", err)
	}
	return nil
}

func (d *Driver) writeRecord(i hostops.ISCSIDisk, reopenMax int) error {
	return d.records.put(d.records.nodePath(i.IQN, i.Portal), nodeText(d.records.iface, d.cfg.Initiator, i, reopenMax))
}

// login makes the session, or leaves nothing behind.
func (d *Driver) login(ctx context.Context, i hostops.ISCSIDisk) (path string, err error) {
	// Records of another portal, or of what was here before a restart.
	if err := d.records.remove(i.IQN); err != nil {
		return "", err
	}
	if err := dial(ctx, i); err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			d.cleanUp(ctx, i.IQN)
		}
	}()
	if err := d.records.put(d.records.ifacePath(), ifaceText(d.records.iface, d.cfg.Initiator)); err != nil {
		return "", err
	}
	if err := d.writeRecord(i, 0); err != nil {
		return "", err
	}
	err = d.run(ctx, "iscsiadm", "-m", "node", "-T", i.IQN, "-p", i.Portal.String(), "-I", d.records.iface, "--login")
	if err := loginError(err); err != nil {
		return "", err
	}
	here, err := d.ours(i.IQN)
	if err != nil {
		return "", err
	}
	if len(here) != 1 || !d.same(here[0], i) {
		return "", fmt.Errorf("log in: there are %d sessions after it, or another one", len(here))
	}
	return d.await(ctx, here[0].sid, i)
}

// dial asks whether the target is there at all.
func dial(ctx context.Context, i hostops.ISCSIDisk) error {
	dialer := net.Dialer{Timeout: dialTimeout}
	c, err := dialer.DialContext(ctx, "tcp", i.Portal.String())
	if err != nil {
		return fmt.Errorf("the target does not answer: %w", err)
	}
	return c.Close()
}

// loginError turns iscsiadm's status into an error of the contract.
func loginError(err error) error {
	switch status(err) {
	case 0:
		return nil
	case exitAuthFailed:
		return fmt.Errorf("the target refuses this host's CHAP user or secret: %w", hostops.ErrDenied)
	case exitFatalLogin:
		return fmt.Errorf("the target does not serve this volume to this host (volume, initiator name or address): %w", hostops.ErrDenied)
	case exitTransport, exitTransportTimeout, exitPDUTimeout:
		return errors.New("the target does not answer the login")
	case exitLogin:
		return errors.New("the target is not ready for a login")
	case exitNoDaemon:
		return fmt.Errorf("iscsid does not run: see its journal, and /etc/iscsi/initiatorname.iscsi: %w", err)
	}
	return fmt.Errorf("log in: %w", err)
}

// cleanUp ends what a failed login may have left, within its own bound. What a
// login that still runs leaves is seen by List and ended by the next call.
func (d *Driver) cleanUp(ctx context.Context, iqn string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpMax)
	defer cancel()
	here, err := d.ours(iqn)
	for _, s := range here {
		err = errors.Join(err, d.end(ctx, s))
	}
	if err == nil {
		err = d.records.remove(iqn)
	}
	if err != nil {
		d.log.Warn("clean up after a failed login", "target", iqn, "err", err)
	}
}

// await waits for the unit's block device and for udev's link to it, and checks
// that it is the volume's.
func (d *Driver) await(ctx context.Context, sid int, i hostops.ISCSIDisk) (string, error) {
	volume := strings.TrimPrefix(i.IQN, hostops.TargetIQN(""))
	var missing string
	for {
		all, err := sessions(d.paths.sys, i.IQN)
		if err != nil {
			return "", err
		}
		n := slices.IndexFunc(all, func(s session) bool { return s.sid == sid })
		if n < 0 {
			return "", errors.New("its session has ended")
		}
		s := all[n]
		u, ok := s.unit(i.LUN)
		path := d.devicePath(s, i.LUN)
		switch {
		case !ok || u.block == "":
			missing = fmt.Sprintf("the target shows no LUN %d", i.LUN)
		case u.serial == "":
			missing = "the unit does not say its serial number"
		case u.serial != volume:
			return "", fmt.Errorf("its unit is %q, not this volume", u.serial)
		case !linkTo(path, u.block):
			missing = "udev has made no link " + path
		default:
			return path, nil
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("wait for its device: %s: %w", missing, ctx.Err())
		case <-time.After(pollEvery):
		}
	}
}

// linkTo says whether a link of udev's leads to that device.
func linkTo(path, block string) bool {
	to, err := os.Readlink(path)
	return err == nil && filepath.Base(to) == block
}

// Rescan looks at the size of an attached unit again. A unit that is not
// attached is ErrNotFound.
func (d *Driver) Rescan(ctx context.Context, iqn string) error {
	if err := checkTarget(iqn); err != nil {
		return fmt.Errorf("rescan: %w", err)
	}
	here, err := d.ours(iqn)
	if err == nil && len(here) == 0 {
		err = hostops.ErrNotFound
	}
	for _, s := range here {
		err = errors.Join(err, d.rescan(ctx, s))
	}
	if err != nil {
		return fmt.Errorf("rescan %s: %w", iqn, err)
	}
	return nil
}

// rescan is done by a process of its own: it waits in the kernel while the
// target does not answer.
func (d *Driver) rescan(ctx context.Context, s session) error {
	ctx, cancel := context.WithTimeout(ctx, rescanMax)
	defer cancel()
	return d.run(ctx, "iscsiadm", "-m", "session", "-r", strconv.Itoa(s.sid), "--rescan")
}

// List implements hostops.Initiators: sessions and records of ours.
func (d *Driver) List(context.Context) ([]hostops.Attachment, error) {
	all, err := sessions(d.paths.sys, hostops.TargetIQN(""))
	if err != nil {
		return nil, fmt.Errorf("list attachments: %w", err)
	}
	var out []hostops.Attachment
	for _, s := range all {
		if d.owns(s) {
			out = append(out, d.attachment(s))
		}
	}
	kept, err := d.records.list(hostops.TargetIQN(""))
	if err != nil {
		return nil, fmt.Errorf("list attachments: %w", err)
	}
	for _, r := range kept {
		if !slices.ContainsFunc(out, func(a hostops.Attachment) bool { return a.IQN == r.target }) {
			out = append(out, hostops.Attachment{IQN: r.target, Portal: r.portal, Detail: "not logged in"})
		}
	}
	slices.SortStableFunc(out, func(a, b hostops.Attachment) int { return strings.Compare(a.IQN, b.IQN) })
	return out, nil
}

func (d *Driver) attachment(s session) hostops.Attachment {
	a := hostops.Attachment{IQN: s.target, Portal: s.portal}
	n := slices.IndexFunc(s.units, func(u unit) bool { return u.block != "" && linkTo(d.devicePath(s, u.lun), u.block) })
	if n < 0 {
		a.Detail = "the target shows no disk"
	} else {
		a.Path = d.devicePath(s, s.units[n].lun)
	}
	switch {
	case !s.up():
		a.Detail = "the target does not answer, or refuses this host; I/O waits for it"
	case n >= 0 && s.units[n].state != "running" && s.units[n].state != "blocked":
		a.Detail = "the disk is " + s.units[n].state
	}
	return a
}
