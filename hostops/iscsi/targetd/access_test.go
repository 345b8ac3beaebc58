package targetd

import (
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"vcn/hostops"
	"vcn/hostops/iscsi/initiator"
)

// closed instead of a status: the connection is.
const closed = 0xffff

func TestLoginIsRefused(t *testing.T) {
	t.Parallel()
	loginIsRefused(t, newRig(t))
}

func loginIsRefused(t *testing.T, r *rig) {
	e := r.publish(testExport("doors", newVolume(t, 1<<20), 1))
	for name, c := range map[string]struct {
		change           func(*initiator.Config)
		embedded, kernel uint16
	}{
		"wrong secret":     {func(c *initiator.Config) { c.Secret = "0123456789abcdeX" }, 0x0201, 0x0201},
		"empty secret":     {func(c *initiator.Config) { c.Secret = "" }, 0x0201, 0x0201},
		"wrong user":       {func(c *initiator.Config) { c.User = "host-b" }, 0x0201, 0x0201},
		"no CHAP":          {func(c *initiator.Config) { c.User = "" }, 0x0201, closed},
		"wrong initiator":  {func(c *initiator.Config) { c.Initiator += "x" }, 0x0203, 0x0202},
		"wrong address":    {func(c *initiator.Config) { c.LocalAddr = "127.0.0.2" }, 0x0203, 0},
		"unknown target":   {func(c *initiator.Config) { c.Target += "x" }, 0x0203, 0x0301},
		"session of TSIH":  {func(c *initiator.Config) { c.TSIH = 7 }, 0x020a, 0x020a},
		"foreign discover": {func(c *initiator.Config) { c.Target, c.Initiator = "", c.Initiator+"x" }, 0x0202, 0x0201},
	} {
		status := c.embedded
		if r.kernel {
			status = c.kernel
		}
		if status == 0 { // the kernel knows no addresses: see the test of that
			continue
		}
		t.Run(name, func(t *testing.T) {
			cfg := r.config(e)
			c.change(&cfg)
			_, err := initiator.Login(cfg)
			if status == closed && errors.Is(err, io.EOF) {
				return
			}
			wantRefused(t, err, status)
		})
	}
	a, err := r.login(e).Read(0, 1)
	wantStatus(t, a, err, 0, 0)
}

// The same by QEMU, as it is going to be used.
func TestQEMULoginIsRefused(t *testing.T) {
	t.Parallel()
	qemuLoginIsRefused(t, newRig(t))
}

func qemuLoginIsRefused(t *testing.T, r *rig) {
	e := r.publish(testExport("qdoors", newVolume(t, 1<<20), 1))
	for name, who := range map[string][2]string{
		"secret":    {testInitiator, "0123456789abcdeX"},
		"initiator": {testInitiator + "x", testSecret},
	} {
		o := qemuOpts(r.portal, e, who[0], who[1])
		if out, err := tool(t, "qemu-io", o[0], o[1], o[2], "-c", "read 0 512", o[3]); err == nil {
			t.Fatalf("wrong %s was let in:\n%s", name, out)
		}
	}
	o := qemuOpts(r.portal, e, testInitiator, testSecret)
	if out, err := tool(t, "qemu-io", o[0], o[1], o[2], "-c", "read 0 512", o[3]); err != nil {
		t.Fatalf("the right one was not: %v\n%s", err, out)
	}
}

func TestDiscoveryShowsNothingForeign(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	mine := r.publish(testExport("mine", newVolume(t, 1<<20), 1))
	foreign := testExport("foreign", newVolume(t, 1<<20), 1)
	foreign.Access[0].Initiator += "x"
	r.publish(foreign)
	otherSecret := testExport("othersecret", newVolume(t, 1<<20), 1)
	otherSecret.Access[0].Secret = "fedcba9876543210"
	r.publish(otherSecret)
	c := r.config(mine)
	c.Target = ""
	k, err := initiator.Login(c)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	p := &initiator.PDU{Data: []byte("SendTargets=All\x00")}
	p.H[0], p.H[1] = 0x04, 0x80
	p.Put(20, 0xffffffff)
	p.Put(24, k.CmdSN)
	if err := k.Send(p); err != nil {
		t.Fatal(err)
	}
	a, err := k.Receive()
	if err != nil {
		t.Fatal(err)
	}
	want := "TargetName=" + mine.IQN + "\x00TargetAddress=" + r.portal.String() + ",1\x00"
	if string(a.Data) != want {
		t.Fatalf("discovery says %q, want %q", a.Data, want)
	}
}

func TestPublishRefusesWhatIsOpen(t *testing.T) {
	t.Parallel()
	publishRefusesWhatIsOpen(t, newRig(t))
}

func publishRefusesWhatIsOpen(t *testing.T, r *rig) {
	path := newVolume(t, 1<<20)
	for name, change := range map[string]func(*hostops.Export){
		"volume id":         func(e *hostops.Export) { e.Volume = "A/b" },
		"relative path":     func(e *hostops.Export) { e.Path = "volume" },
		"target name":       func(e *hostops.Export) { e.IQN = "target" },
		"initiator":         func(e *hostops.Export) { e.Access[0].Initiator = "" },
		"no address":        func(e *hostops.Export) { e.Access[0].Addr = netip.Addr{} },
		"any address":       func(e *hostops.Export) { e.Access[0].Addr = netip.IPv4Unspecified() },
		"no user":           func(e *hostops.Export) { e.Access[0].User = "" },
		"short secret":      func(e *hostops.Export) { e.Access[0].Secret = "short" },
		"long secret":       func(e *hostops.Export) { e.Access[0].Secret = strings.Repeat("x", 65) },
		"separator in name": func(e *hostops.Export) { e.IQN += "\x00TargetName=iqn.x" },
	} {
		e := testExport("open", path, 1)
		change(&e)
		if err := r.client.Publish(t.Context(), e); !errors.Is(err, hostops.ErrInvalid) {
			t.Errorf("%s: got %v, want ErrInvalid", name, err)
		}
	}
	e := testExport("gone", path+"-absent", 1)
	if err := r.client.Publish(t.Context(), e); err == nil {
		t.Error("an absent file was published")
	}
	first := r.publish(testExport("first", path, 1))
	same := testExport("second", newVolume(t, 1<<20), 1)
	same.IQN = first.IQN
	if err := r.client.Publish(t.Context(), same); !errors.Is(err, hostops.ErrInvalid) {
		t.Errorf("a name in use: got %v, want ErrInvalid", err)
	}
	l, err := r.client.List(t.Context())
	if err != nil || len(l) != 1 || l[0].Volume != "first" {
		t.Fatalf("after the refusals: %+v, %v; want only the first", l, err)
	}
}

// writer writes block after block until the session is cut, and counts what it
// was promised.
func writer(k *initiator.Conn, done chan<- error) {
	b := make([]byte, 4096)
	for i := uint64(0); ; i++ {
		b[0]++
		a, err := k.Write(i%128*8, b)
		if err != nil {
			done <- nil // cut, as it should be
			return
		}
		if a.Status != 0 {
			done <- errors.New("a write failed before the cut")
			return
		}
	}
}

func (r *rig) wantCut(done <-chan error) {
	r.t.Helper()
	select {
	case err := <-done:
		if err != nil {
			r.t.Fatal(err)
		}
	case <-time.After(10 * time.Second):
		r.t.Fatal("the session of the old generation is not cut")
	}
}

func TestRaisedGenerationCutsBeforeAdmitting(t *testing.T) {
	t.Parallel()
	raisedGenerationCutsBeforeAdmitting(t, newRig(t))
}

func raisedGenerationCutsBeforeAdmitting(t *testing.T, r *rig) {
	path := r.volume(1 << 20)
	e := r.publish(testExport("fenced", path, 1))
	old := r.login(e)
	done := make(chan error, 1)
	release, entered := r.hold(path)
	defer release()
	go func() {
		_, err := old.Write(0, make([]byte, 4096))
		if err == nil {
			done <- errors.New("the cut session got an answer")
			return
		}
		done <- nil
	}()
	<-entered // a write of the old generation is in the device
	next := e
	next.Generation = 2 // and the very same access
	published := make(chan error, 1)
	go func() { published <- r.client.Publish(t.Context(), next) }()
	if !r.kernel { // LIO closes the connection when the command has come back
		r.wantCut(done)
	}
	eventually(t, "logins are told to come later", func() bool {
		var re *initiator.Refused
		return errors.As(r.knock(e), &re) && re.Class == 3 && re.Detail == 1
	})
	select {
	case err := <-published:
		t.Fatalf("published (%v) while a command of the old generation was in the device", err)
	default:
	}
	release()
	if err := <-published; err != nil {
		t.Fatal(err)
	}
	if r.kernel {
		r.wantCut(done)
	}
	a, err := r.login(next).Write(0, make([]byte, 4096))
	wantStatus(t, a, err, 0, 0)
	if err := r.client.Publish(t.Context(), e); !errors.Is(err, hostops.ErrStale) {
		t.Fatalf("lower generation: got %v, want ErrStale", err)
	}
	l, err := r.client.List(t.Context())
	if err != nil || len(l) != 1 || l[0].Generation != 2 || len(l[0].Sessions) != 1 || l[0].Sessions[0].Initiator != testInitiator || time.Since(l[0].Sessions[0].Since) > time.Minute {
		t.Fatalf("list: %+v, %v", l, err)
	}
}

func TestChangedAccessCutsOnlyWhoLostIt(t *testing.T) {
	t.Parallel()
	changedAccessCutsOnlyWhoLostIt(t, newRig(t))
}

func changedAccessCutsOnlyWhoLostIt(t *testing.T, r *rig) {
	e := testExport("shared", newVolume(t, 1<<20), 1)
	e.Access = append(e.Access, hostops.Access{Initiator: testInitiator + "2", Addr: loopback, User: testUser, Secret: "fedcba9876543210"})
	r.publish(e)
	one := r.login(e)
	cfg := r.config(e)
	cfg.Initiator, cfg.Secret = e.Access[1].Initiator, e.Access[1].Secret
	two, err := initiator.Login(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer two.Close()
	changed := e
	changed.Access = []hostops.Access{e.Access[0], e.Access[1]}
	changed.Access[1].Secret = "another-secret-of-it"
	r.publish(changed)
	if a, err := two.Read(0, 1); err == nil {
		t.Fatalf("the session of the old secret goes on: %+v", a)
	}
	a, err := one.Read(0, 1)
	wantStatus(t, a, err, 0, 0)
	_, err = initiator.Login(cfg)
	wantRefused(t, err, 0x0201)
}

func TestPublishTwiceIsNothing(t *testing.T) {
	t.Parallel()
	publishTwiceIsNothing(t, newRig(t))
}

func publishTwiceIsNothing(t *testing.T, r *rig) {
	e := r.publish(testExport("twice", newVolume(t, 1<<20), 1))
	k := r.login(e)
	r.publish(e)
	a, err := k.Read(0, 1)
	wantStatus(t, a, err, 0, 0)
}
