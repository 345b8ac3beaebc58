package openiscsi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"vcn/hostops"
)

// Detach implements hostops.Initiators. A session of somebody else to that
// target is left alone, and so is its record.
func (d *Driver) Detach(ctx context.Context, iqn string) error {
	if err := checkTarget(iqn); err != nil {
		return fmt.Errorf("detach: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, d.cfg.Timeout)
	defer cancel()
	unlock, err := d.claims.Claim(ctx, iqn)
	if err != nil {
		return fmt.Errorf("detach %s: wait for another call: %w", iqn, err)
	}
	defer unlock()
	here, err := d.ours(iqn)
	if errors.Is(err, hostops.ErrForeign) {
		err = nil
	}
	for _, s := range here {
		err = errors.Join(err, d.end(ctx, s))
	}
	if err == nil {
		err = d.records.remove(iqn)
	}
	if err != nil {
		return fmt.Errorf("detach %s: %w", iqn, err)
	}
	return nil
}

// end ends one session, unless somebody uses its disk, and waits until it is
// gone. Its record stays.
func (d *Driver) end(ctx context.Context, s session) error {
	for _, u := range s.units {
		if u.block == "" {
			continue
		}
		who, err := users(d.paths, u.block, !s.up())
		if err != nil {
			return err
		}
		if who != "" {
			return fmt.Errorf("%s: %w", who, hostops.ErrBusy)
		}
		if s.up() {
			d.flush(ctx, u)
		}
	}
	err := d.logout(ctx, s)
	if err != nil {
		return err
	}
	return d.awaitEnd(ctx, s)
}

// flush writes what the host itself may have cached. If that does not succeed
// the session is ended all the same.
func (d *Driver) flush(ctx context.Context, u unit) {
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	dev := filepath.Join(d.paths.dev, u.block)
	if err := d.run(ctx, "blockdev", "--flushbufs", dev); err != nil {
		d.log.Warn("flush a disk before its session ends", "device", dev, "err", err)
	}
}

func (d *Driver) logout(ctx context.Context, s session) error {
	err := d.run(ctx, "iscsiadm", "-m", "session", "-r", strconv.Itoa(s.sid), "--logout")
	switch status(err) {
	case 0, exitNothing, exitSessionNotFound:
		return nil
	case exitBusy:
		return fmt.Errorf("log out: %w: %w", hostops.ErrBusy, err)
	case exitInternal:
		return fmt.Errorf("log out: a login or logout of it still runs: %w: %w", hostops.ErrBusy, err)
	case exitNotConnected:
		return d.endAtRestart(s, err)
	case exitNoDaemon:
		return fmt.Errorf("log out: iscsid does not run: %w", err)
	}
	return fmt.Errorf("log out: %w", err)
}

// endAtRestart handles what iscsid refuses: it was restarted while the target is
// away and ends no session until that has answered. With a limit of tries in
// the record the next restart ends it.
func (d *Driver) endAtRestart(s session, cause error) error {
	i := hostops.ISCSIDisk{Portal: s.portal, IQN: s.target, User: s.user, Secret: s.secret}
	if err := d.writeRecord(i, 1); err != nil {
		return errors.Join(cause, err)
	}
	return fmt.Errorf("log out: iscsid was restarted while the target is away and ends its session when that answers, or when iscsid is restarted again (systemctl restart iscsid): %w: %w",
		hostops.ErrBusy, cause)
}

// awaitEnd waits until the kernel has let go of the session.
func (d *Driver) awaitEnd(ctx context.Context, s session) error {
	dir := filepath.Join(d.paths.sys, "class", "iscsi_session", "session"+strconv.Itoa(s.sid))
	for {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the end of its session: %w", ctx.Err())
		case <-time.After(pollEvery):
		}
	}
}
