package fsm

import "strconv"

// A leader that plans while other plans are on their way to the log asks for
// as many identifiers as there are such plans and one more, and takes the first
// that none of them has. An error means that there are not that many.

// AllocVLANs returns the next n free VLANs.
func (v *View) AllocVLANs(n int) ([]int, error) {
	p, err := v.pools()
	if err != nil {
		return nil, err
	}
	texts, err := v.next(p.vlans(), strconv.Itoa(v.st.LastVLAN), n)
	if err != nil {
		return nil, err
	}
	out := make([]int, len(texts))
	for i, s := range texts {
		if out[i], err = strconv.Atoi(s); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// AllocSubnets returns the next n free subnets as CIDRs.
func (v *View) AllocSubnets(n int) ([]string, error) {
	p, err := v.pools()
	if err != nil {
		return nil, err
	}
	sp, err := p.subnets()
	if err != nil {
		return nil, err
	}
	return v.next(sp, v.st.LastSubnet, n)
}

// AllocPublics returns the next n free public addresses.
func (v *View) AllocPublics(n int) ([]string, error) {
	p, err := v.pools()
	if err != nil {
		return nil, err
	}
	pp, err := p.publics()
	if err != nil {
		return nil, err
	}
	return v.next(pp, v.st.LastPublic, n)
}
