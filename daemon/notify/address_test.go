package notify

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestAddressesThatAreNotPublicAreRefused(t *testing.T) {
	s := newSender(t, Config{Internal: func(a netip.Addr) bool { return a == netip.MustParseAddr("8.8.4.4") }})
	s.policy.own = func() []netip.Addr { return []netip.Addr{netip.MustParseAddr("9.9.9.9")} }
	refused := strings.Fields(`
		127.0.0.1 127.255.255.254 ::1 ::ffff:127.0.0.1 0.0.0.0 0.1.2.3 :: ::ffff:0.0.0.0
		10.0.0.1 172.16.0.1 172.31.255.255 192.168.0.1 ::ffff:192.168.0.1 fc00::1 fd12:3456::1 fec0::1
		169.254.169.254 169.254.0.1 fe80::1 fe80::1%eth0 ::ffff:169.254.169.254
		100.64.0.1 100.127.255.255 192.0.0.8 192.0.2.1 192.88.99.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1
		224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 ff02::1 ff0e::1
		2002:7f00:1::1 2002:a00:1::1 2002:c0a8:1::1 2002:a9fe:a9fe::1 2002:6440:1::1
		64:ff9b::127.0.0.1 64:ff9b::10.0.0.1 64:ff9b::169.254.169.254 64:ff9b::100.64.0.1 64:ff9b:1::1.1.1.1
		::10.0.0.1 ::1.1.1.1 2a00::5efe:10.0.0.1 2a00::200:5efe:192.168.1.1
		2001::1 2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:10::1 2001:db8::1 3fff::1 100::1 5f00::1 4000::1
		8.8.4.4 64:ff9b::8.8.4.4 2002:808:404::1 9.9.9.9 64:ff9b::9.9.9.9`)
	public := strings.Fields(`
		1.1.1.1 8.8.8.8 ::ffff:8.8.8.8 172.15.255.255 172.32.0.1 100.63.255.255 100.128.0.1 169.253.0.1 192.0.1.1 223.255.255.255
		2606:4700:4700::1111 2a00:1450::1 64:ff9b::8.8.8.8 2002:808:808::1 2001:4860:4860::8888`)
	for _, a := range refused {
		if err := s.policy.check("h.example.com", netip.MustParseAddr(a), false); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v", a, err)
		}
	}
	for _, a := range public {
		if err := s.policy.check("h.example.com", netip.MustParseAddr(a), false); err != nil {
			t.Errorf("%s: %v", a, err)
		}
		if err := s.policy.check("h.example.com", netip.MustParseAddr(a), true); !errors.Is(err, ErrRefused) {
			t.Errorf("%s by http: %v", a, err)
		}
	}
}

func TestOperatorsListOpensWhatItsKindOfEntryMay(t *testing.T) {
	s := newSender(t, Config{
		WebhookAllow: []string{"hooks", "a.Example.com", "*.lab.example.org", "10.1.0.0/16", "127.0.0.2", "::1/128", "0.0.0.0/0", "fe80::/10"},
		Internal:     func(a netip.Addr) bool { return a == netip.MustParseAddr("8.8.4.4") },
	})
	s.policy.nets = slices.DeleteFunc(s.policy.nets, func(p netip.Prefix) bool { return p.Bits() == 0 })
	for _, c := range []struct {
		host, addr string
		plain, ok  bool
	}{
		{"hooks", "192.168.1.1", false, true}, {"hooks", "192.168.1.1", true, true}, {"hooks", "8.8.4.4", false, true},
		{"hooks", "127.0.0.1", false, false}, {"hooks", "169.254.169.254", false, false}, {"hooks", "64:ff9b::7f00:1", false, false},
		{"a.example.com", "fd00::1", false, true}, {"b.a.example.com", "fd00::1", false, false},
		{"x.lab.example.org", "10.9.0.1", false, true}, {"x.y.lab.example.org", "10.9.0.1", false, true},
		{"lab.example.org", "10.9.0.1", false, false}, {"evillab.example.org", "10.9.0.1", false, false},
		{"any.example.net", "10.1.2.3", false, true}, {"any.example.net", "10.1.2.3", true, true}, {"any.example.net", "10.2.0.1", false, false},
		{"any.example.net", "64:ff9b::10.1.2.3", false, false}, {"any.example.net", "::ffff:10.1.2.3", false, true},
		{"any.example.net", "127.0.0.2", false, true}, {"any.example.net", "127.0.0.3", false, false}, {"any.example.net", "::1", true, true},
		{"any.example.net", "fe80::1", false, true}, {"any.example.net", "fe80::1%eth0", false, false}, {"any.example.net", "8.8.4.4", false, false},
	} {
		if err := s.policy.check(c.host, netip.MustParseAddr(c.addr), c.plain); (err == nil) != c.ok || err != nil && !errors.Is(err, ErrRefused) {
			t.Errorf("%s at %s, plain %v: %v, want ok %v", c.host, c.addr, c.plain, err, c.ok)
		}
	}
	all := newSender(t, Config{WebhookAllow: []string{"0.0.0.0/0", "::/0"}})
	for _, a := range []string{"0.0.0.0", "224.0.0.1", "255.255.255.255", "::", "ff02::1", "64:ff9b::"} {
		if err := all.policy.check("h", netip.MustParseAddr(a), false); !errors.Is(err, ErrRefused) {
			t.Errorf("%s, with all allowed: %v", a, err)
		}
	}
}

// TestEveryIPv4AddressIsJudgedAlikeInEveryDisguise: what is refused as such is refused
// inside NAT64, 6to4, ISATAP and mapped addresses.
func TestEveryIPv4AddressIsJudgedAlikeInEveryDisguise(t *testing.T) {
	s := newSender(t, Config{})
	rapid.Check(t, func(t *rapid.T) {
		v4 := [4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "address"))
		plain := netip.AddrFrom4(v4)
		refused := s.policy.check("h", plain, false) != nil
		var n64, mapped, isatap, six [16]byte
		copy(n64[:], []byte{0, 0x64, 0xff, 0x9b})
		copy(mapped[10:], []byte{0xff, 0xff})
		copy(isatap[:], []byte{0x2a, 0, 1, 2, 3, 4, 5, 6, 0, 0, 0x5e, 0xfe})
		copy(six[:], append([]byte{0x20, 0x02}, v4[:]...))
		for _, b := range []*[16]byte{&n64, &mapped, &isatap} {
			copy(b[12:], v4[:])
		}
		for _, b := range [][16]byte{n64, mapped, isatap, six} {
			a := netip.AddrFrom16(b)
			if got := s.policy.check("h", a, false) != nil; got != refused {
				t.Fatalf("%s refused: %v; %s: %v", plain, refused, a, got)
			}
		}
	})
}

func TestURLsThatAreNoWebhookAreRefused(t *testing.T) {
	w := &wires{}
	n := &names{}
	s := newSender(t, Config{WebhookAllow: []string{"hooks"}, Resolver: n, Dialer: w})
	for _, u := range []string{
		"ftp://h.example.com/", "file:///etc/passwd", "gopher://h.example.com/", "https:h.example.com", "https:///x", "//h.example.com/", "h.example.com",
		"https://user:pw@h.example.com/", "https://user@h.example.com/", "https://h.example.com/#x", "https://h.example.com:0/", "https://h.example.com:99999/",
		"https://h.example.com:/", "https://h.example.com/a b", "https://h.example.com/\r\nX: y", "https://h.example.com/\x00", "https://hé.example.com/",
		"https://2130706433/", "https://0x7f000001/", "https://0x7f.1/", "https://127.1/", "https://0177.0.0.1/", "https://127.0.0.1./",
		"https://127.0.0.1/", "https://[::1]/", "https://[::ffff:10.0.0.1]/", "https://[fe80::1%25lo]/", "https://10.0.0.1:8443/", "http://1.1.1.1/",
		"https://localhost/", "https://intranet/", "https://a..example.com/", "https://-a.example.com/", "https://a%2eexample.com@hooks/",
		"https://" + strings.Repeat("a.", 130) + "com/", "https://h.example.com/" + strings.Repeat("x", 3000),
	} {
		m := message()
		m.Webhook = u
		err := s.Send(t.Context(), m)
		if !errors.Is(err, ErrRefused) || errors.Is(err, ErrLater) {
			t.Errorf("%q: %v", u, err)
		}
		if err := s.Check(u, ""); !errors.Is(err, ErrRefused) {
			t.Errorf("check of %q: %v", u, err)
		}
	}
	if len(w.dialed) > 0 || len(n.asked) > 0 {
		t.Errorf("something was asked or dialled: %q %q", n.asked, w.dialed)
	}
	for _, u := range []string{"https://h.example.com", "https://H.example.com.:8443/a?b=c", "http://hooks/", "https://1.1.1.1/", "https://[2606:4700::1]:444/"} {
		if err := s.Check(u, ""); err != nil {
			t.Errorf("check of %q: %v", u, err)
		}
	}
}

func TestExactlyTheCheckedAddressesAreDialled(t *testing.T) {
	for name, c := range map[string]struct {
		answer, dialed []string
		never          bool
	}{
		"public":             {[]string{"1.1.1.1"}, []string{"1.1.1.1:443"}, false},
		"several":            {[]string{"2606:4700::1", "1.1.1.1"}, []string{"[2606:4700::1]:443", "1.1.1.1:443"}, false},
		"mixed":              {[]string{"127.0.0.1", "1.1.1.1", "10.0.0.1"}, []string{"1.1.1.1:443"}, false},
		"private":            {[]string{"10.0.0.1", "fd00::1"}, nil, true},
		"metadata":           {[]string{"169.254.169.254"}, nil, true},
		"mapped":             {[]string{"::ffff:8.8.8.8"}, []string{"8.8.8.8:443"}, false},
		"more than are seen": {[]string{"10.0.0.1", "10.0.0.1", "10.0.0.1", "10.0.0.1", "10.0.0.1", "10.0.0.1", "10.0.0.1", "10.0.0.1", "1.1.1.1"}, nil, true},
		"no answer":          {nil, nil, false},
	} {
		w := &wires{}
		n := &names{answers: map[string][][]string{}}
		if c.answer != nil {
			n.answers["h.example.com."] = [][]string{c.answer, {"127.0.0.1"}}
		}
		s := newSender(t, Config{Resolver: n, Dialer: w})
		m := message()
		m.Webhook = "https://h.example.com/secret-path"
		err := s.Send(t.Context(), m)
		if errors.Is(err, ErrRefused) != c.never || errors.Is(err, ErrLater) == c.never {
			t.Errorf("%s: %v", name, err)
		}
		if !slices.Equal(w.dialed, c.dialed) || len(n.asked) != 1 {
			t.Errorf("%s: dialled %q, want %q; asked %q", name, w.dialed, c.dialed, n.asked)
		}
		for _, leak := range []string{"10.", "127.", "169.", "fd00", "secret-path"} {
			if err != nil && strings.Contains(err.Error(), leak) {
				t.Errorf("%s: error names %q: %v", name, leak, err)
			}
		}
	}
}

func TestNamesAreAskedForInFullUnlessTheOperatorListsThem(t *testing.T) {
	n := &names{answers: map[string][][]string{"hooks": {{"10.0.0.1"}}}}
	w := &wires{}
	s := newSender(t, Config{WebhookAllow: []string{"hooks"}, Resolver: n, Dialer: w})
	for _, u := range []string{"http://HOOKS./", "https://h.example.com/"} {
		m := message()
		m.Webhook = u
		if err := s.Send(t.Context(), m); !errors.Is(err, ErrLater) {
			t.Errorf("%s: %v", u, err)
		}
	}
	if !slices.Equal(n.asked, []string{"hooks", "h.example.com."}) || !slices.Equal(w.dialed, []string{"10.0.0.1:80"}) {
		t.Errorf("asked %q, dialled %q", n.asked, w.dialed)
	}
}

func TestThisMachinesAddressesAreItsOwn(t *testing.T) {
	own := ownAddresses()
	nets, err := net.InterfaceAddrs()
	if err != nil || len(nets) == 0 || len(own) != len(nets) {
		t.Fatalf("%v of %v: %v", own, nets, err)
	}
	for _, a := range own {
		if a.Zone() != "" || !a.IsValid() {
			t.Errorf("%s", a)
		}
	}
}

func TestConfigurationThatIsWrongIsNamed(t *testing.T) {
	ok := func() Config {
		return Config{Site: "lab", MailCommand: []string{"/bin/true"}, MailFrom: "vcn@example.com"}
	}
	for field, f := range map[string]func(*Config){
		"Site":                func(c *Config) { c.Site = "a\nb" },
		"Site: \"\"":          func(c *Config) { c.Site = "" },
		"Secret":              func(c *Config) { c.Secret = []byte("short") },
		"HTTPTimeout":         func(c *Config) { c.HTTPTimeout = 2 * HTTPTimeoutMax },
		"MailTimeout":         func(c *Config) { c.MailTimeout = -1 },
		"MailFrom":            func(c *Config) { c.MailFrom = "x\r\nBcc: y@example.com" },
		"MailCommand":         func(c *Config) { c.MailCommand = []string{"sendmail"} },
		"MailCommand: \"a\\x": func(c *Config) { c.MailCommand = append(c.MailCommand, "a\x00") },
		"\"*\"":               func(c *Config) { c.WebhookAllow = []string{"*"} },
		"\"*.com\"":           func(c *Config) { c.WebhookAllow = []string{"*.com"} },
		"\"10.0.0.0/33\"":     func(c *Config) { c.WebhookAllow = []string{"10.0.0.0/33"} },
		"\"a_b\"":             func(c *Config) { c.WebhookAllow = []string{"a_b"} },
		"entries":             func(c *Config) { c.WebhookAllow = make([]string, 257) },
	} {
		c := ok()
		f(&c)
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
	if _, err := New(ok()); err != nil {
		t.Error(err)
	}
}
