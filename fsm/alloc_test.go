package fsm

import (
	"errors"
	"testing"

	"vcn/api"
)

func TestPoolsThatTouchNothingTheyMustNotAreTaken(t *testing.T) {
	for _, tc := range []struct {
		name string
		edit func(*Pools)
	}{
		{"as they are", func(*Pools) {}},
		{"no gateway", func(p *Pools) { p.PublicGateway = "" }},
		{"all but the gateway", func(p *Pools) { p.PublicFirst, p.PublicLast = "192.0.2.2", "192.0.2.254" }},
		{"gateway right after the pool", func(p *Pools) { p.PublicGateway = "192.0.2.41" }},
		{"two addresses that are the network", func(p *Pools) {
			p.PublicFirst, p.PublicLast, p.PublicBits, p.PublicGateway = "192.0.2.0", "192.0.2.1", 31, ""
		}},
		{"an address that is the network", func(p *Pools) {
			p.PublicFirst, p.PublicLast, p.PublicBits, p.PublicGateway = "192.0.2.9", "192.0.2.9", 32, ""
		}},
		{"the end of the address space", func(p *Pools) {
			p.PublicFirst, p.PublicLast, p.PublicBits, p.PublicGateway = "255.255.255.253", "255.255.255.254", 30, ""
		}},
		{"subnets beside the public network", func(p *Pools) { p.Subnets = "192.0.3.0/24" }},
	} {
		p := testPools
		tc.edit(&p)
		if err := p.Check(); err != nil {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

func TestPoolsThatAreWrongNameTheField(t *testing.T) {
	for _, tc := range []struct {
		field, value string
		edit         func(*Pools)
	}{
		{"vlans", "100-4095", func(p *Pools) { p.VLANLast = 4095 }},
		{"subnets", "10.0.0.1/8", func(p *Pools) { p.Subnets = "10.0.0.1/8" }},
		{"subnets", "192.0.2.0/24", func(p *Pools) { p.Subnets = "192.0.2.0/24" }},
		{"subnet-bits", "30", func(p *Pools) { p.SubnetBits = 30 }},
		{"public-pool", "192.0.2.10-192.0.2.255/24", func(p *Pools) { p.PublicLast = "192.0.2.255" }},
		{"public-pool", "192.0.2.10-192.0.2.40/33", func(p *Pools) { p.PublicBits = 33 }},
		{"public-pool", "192.0.2.10-/24", func(p *Pools) { p.PublicLast = "" }},
		{"public-gateway", "192.0.2.10", func(p *Pools) { p.PublicGateway = "192.0.2.10" }},
		{"public-gateway", "router", func(p *Pools) { p.PublicGateway = "router" }},
	} {
		p := testPools
		tc.edit(&p)
		err := p.Check()
		f, ok := errors.AsType[api.FieldError](err)
		if !errors.Is(err, ErrInvalid) || !ok || f.Field != tc.field || f.Value != tc.value || f.Want == "" {
			t.Errorf("%s %s: %v", tc.field, tc.value, err)
		}
	}
}
