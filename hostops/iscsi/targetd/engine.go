package targetd

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"vcn/hostops"
	"vcn/hostops/iscsi/lio"
	"vcn/hostops/iscsi/scsi"
)

// Engines a Config may ask for.
const (
	EngineAuto     = "auto"     // LIO where the kernel has it, embedded elsewhere
	EngineEmbedded = "embedded" // sessions and commands in this process
	EngineLIO      = "lio"      // the kernel's target
)

// unit is a volume that an engine has opened.
type unit interface {
	// failed tells why the volume has failed for good; empty if it has not.
	failed() string
	// intact tells whether e, which was published, is still served as it was.
	intact(e hostops.Export) bool
	// resize takes over that the file or device has grown.
	resize(ctx context.Context) error
	// sync makes durable what the engine itself keeps in memory.
	sync() error
	// lost tells whether acknowledged writes were lost with this host's power;
	// forgive forgets that, for users that begin anew.
	lost() bool
	forgive() error
	close() error
}

// engine makes opened volumes reachable. It is called for one volume at a time,
// for different ones concurrently, and knows nothing of tables, of the order of
// generations or of who asks.
type engine interface {
	// open takes the volume at e.Path without serving it; failed is not empty
	// for one that has failed before.
	open(e hostops.Export, failed string) (unit, error)
	// publish serves u under e.IQN. When it returns nil, no command runs any
	// more of a session that e's generation and access do not cover, and others
	// are admitted. If ctx ends first, nobody new is admitted; repeat it.
	publish(ctx context.Context, u unit, e hostops.Export) error
	// withdraw ends a volume under a name. When it returns nil, no command of its
	// sessions runs any more. What is not there is withdrawn.
	withdraw(ctx context.Context, volume, iqn string) error
	// announce lets who may use e wait for it: it is to come, and cannot be
	// opened now.
	announce(e hostops.Export)
	// forget removes what is remembered of a volume that is withdrawn for good.
	forget(volume string) error
	sessions(volume, iqn string) []hostops.Session
	// prune ends what an earlier process served and keep does not name, before
	// anything else is called. It returns what does not end now, and why.
	prune(keep map[string]bool) map[string]error
	// listen lets initiators in; what was published before is there at once.
	listen() error
	addrs() []netip.AddrPort
	// close returns when nothing of the engine runs in this process any more.
	close()
}

const (
	kernelLookMax  = 30 * time.Second // loading modules included
	kernelPurgeMax = 30 * time.Second
)

// choose makes the engine that the configuration asks for, and says why it is
// that one. What the other engine left in the kernel under our mark is ended
// first, drained: it would write to the same volumes.
func (s *Server) choose() (engine, string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), kernelLookMax)
	defer cancel()
	c := lio.Config{Owner: s.cfg.owner(), Portals: s.cfg.Listen, Log: s.cfg.Log}
	var why string
	switch s.cfg.Engine {
	case EngineEmbedded:
		why = "the configuration asks for it"
	case EngineLIO:
		if s.cfg.WriteThrough {
			return nil, "", fmt.Errorf("engine %s cannot write through: %w", EngineLIO, hostops.ErrInvalid)
		}
		why = "the configuration asks for it"
		if err := lio.Available(ctx, c.Root); err != nil {
			return nil, "", err
		}
		return s.kernelEngine(c, why)
	case EngineAuto, "":
		err := lio.Available(ctx, c.Root)
		switch {
		case s.cfg.WriteThrough:
			why = "the kernel's target cannot write through"
		case err == nil && s.cfg.Open == nil:
			return s.kernelEngine(c, "the kernel has LIO")
		case err == nil:
			why = "volumes are opened in a way of their own"
		default:
			why = "the kernel's target cannot be used: " + err.Error()
		}
	default:
		return nil, "", fmt.Errorf("engine %q: %w: want %s, %s or %s", s.cfg.Engine, hostops.ErrInvalid, EngineAuto, EngineEmbedded, EngineLIO)
	}
	purge, cancel2 := context.WithTimeout(context.Background(), kernelPurgeMax)
	defer cancel2()
	if err := lio.Purge(purge, c); err != nil {
		return nil, "", fmt.Errorf("end what the kernel's target serves of ours: %w", err)
	}
	return newEmbedded(s.cfg, s.rememberFailure, s.ended), why, nil
}

func (s *Server) kernelEngine(c lio.Config, why string) (engine, string, error) {
	e, err := lio.New(c)
	if err != nil {
		return nil, "", err
	}
	return &kernelEngine{lio: e}, why, nil
}

// kernelEngine is LIO as an engine.
type kernelEngine struct{ lio *lio.Engine }

// kernelUnit is a volume that the kernel opens itself, when it is published.
type kernelUnit struct {
	lio    *lio.Engine
	volume string
	why    string // it has failed before
}

func (k *kernelEngine) open(e hostops.Export, failed string) (unit, error) {
	if err := lio.Check(e); err != nil {
		return nil, err
	}
	return &kernelUnit{lio: k.lio, volume: e.Volume, why: failed}, nil
}

func (k *kernelEngine) publish(ctx context.Context, u unit, e hostops.Export) error {
	return k.lio.Publish(ctx, e, u.failed() != "")
}

func (k *kernelEngine) withdraw(ctx context.Context, volume, _ string) error {
	return k.lio.Withdraw(ctx, volume)
}

// announce has nothing to do: of a name that it does not know the kernel says
// "service unavailable", which initiators repeat.
func (k *kernelEngine) announce(hostops.Export) {}

// forget has nothing to do: the kernel remembers no more than it serves.
func (k *kernelEngine) forget(string) error { return nil }

func (k *kernelEngine) sessions(volume, _ string) []hostops.Session { return k.lio.Sessions(volume) }

func (k *kernelEngine) prune(keep map[string]bool) map[string]error {
	var wg sync.WaitGroup
	var mu sync.Mutex
	left := map[string]error{}
	for _, v := range k.lio.Volumes() {
		if keep[v] {
			continue
		}
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), restoreMax)
			defer cancel()
			if err := k.lio.Withdraw(ctx, v); err != nil {
				mu.Lock()
				defer mu.Unlock()
				left[v] = err
			}
		})
	}
	wg.Wait()
	return left
}

func (k *kernelEngine) listen() error           { return k.lio.Listen() }
func (k *kernelEngine) addrs() []netip.AddrPort { return k.lio.Portals() }
func (k *kernelEngine) close()                  { k.lio.Close() }

func (u *kernelUnit) failed() string                   { return u.why }
func (u *kernelUnit) resize(ctx context.Context) error { return u.lio.Resize(ctx, u.volume) }
func (u *kernelUnit) intact(e hostops.Export) bool     { return u.lio.Serves(e) }
func (u *kernelUnit) sync() error                      { return nil }   // the kernel keeps the data, and goes on
func (u *kernelUnit) lost() bool                       { return false } // LIO keeps no account of it
func (u *kernelUnit) forgive() error                   { return nil }
func (u *kernelUnit) close() error                     { return nil }

// embeddedUnit is a SCSI unit of this process.
type embeddedUnit struct {
	*scsi.Unit
	mark *scsi.FileMark
}

func (u embeddedUnit) failed() string               { return u.Failed() }
func (u embeddedUnit) intact(hostops.Export) bool   { return true } // nobody else can change it
func (u embeddedUnit) resize(context.Context) error { return u.Resize() }
func (u embeddedUnit) sync() error                  { return u.Sync() }
func (u embeddedUnit) lost() bool                   { return u.mark.Lost() }
func (u embeddedUnit) close() error                 { return u.Close() }

func (u embeddedUnit) forgive() error {
	if !u.mark.Lost() {
		return nil
	}
	return u.mark.Forget()
}
