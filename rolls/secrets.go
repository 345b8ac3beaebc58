package rolls

import (
	"crypto/ed25519"
	"encoding/pem"
	"fmt"
	"io"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
)

// Kinds of secrets, and whom there is one for.
const (
	KindRandom = "random"      // raw bytes
	KindSSH    = "ssh-ed25519" // an OpenSSH key pair

	PerCluster = "cluster"
	PerNode    = "node"
	PerUser    = "user"
)

// secretKey returns the key in Secrets; who is empty for one per cluster.
func secretKey(roll, name, who string) string {
	if who == "" {
		return roll + "/" + name
	}
	// The suffix of a key pair's public half ends the whole key.
	if base, ok := strings.CutSuffix(name, ".pub"); ok {
		return roll + "/" + base + "/" + who + ".pub"
	}
	return roll + "/" + name + "/" + who
}

// cutSecret splits a reference, name or roll/name, seen from roll self.
func cutSecret(ref, self string) (roll, name string) {
	if roll, name, ok := strings.Cut(ref, "/"); ok {
		return roll, name
	}
	return self, ref
}

// MakeSecrets makes all that the rolls of the recipes declare, for the nodes and
// users given: random bytes as they are, key pairs as OpenSSH private key (no
// passphrase) and authorized_keys line with a newline. Key material comes from
// rand only, in an order that depends on names alone. (The check number inside
// an OpenSSH private key file, which protects nothing, does not.)
func MakeSecrets(recipes []Recipe, nodes, users []string, rand io.Reader) (Secrets, error) {
	whos := map[string][]string{"": {""}, PerCluster: {""}, PerNode: sorted(nodes), PerUser: sorted(users)}
	for _, w := range append(slices.Clone(nodes), users...) {
		if !reAccount.MatchString(w) && !reName.MatchString(w) {
			return nil, fmt.Errorf("make secrets: %w: name %q", ErrCluster, w)
		}
	}
	out := Secrets{}
	for _, roll := range rollsOf(recipes) {
		specs := slices.Clone(roll.Secrets)
		slices.SortFunc(specs, func(a, b SecretSpec) int { return strings.Compare(a.Name, b.Name) })
		for _, s := range specs {
			for _, who := range slices.Compact(whos[s.Per]) {
				if err := out.make(roll.Name, s, who, rand); err != nil {
					return nil, fmt.Errorf("make secret %s: %w", secretKey(roll.Name, s.Name, who), err)
				}
			}
		}
	}
	return out, nil
}

// rollsOf returns the rolls of all recipes, each once, by name.
func rollsOf(recipes []Recipe) []*Roll {
	var rs []*Roll
	for _, r := range recipes {
		rs = append(rs, r.Rolls...)
	}
	slices.SortStableFunc(rs, func(a, b *Roll) int { return strings.Compare(a.ID(), b.ID()) })
	return slices.CompactFunc(rs, func(a, b *Roll) bool { return a.ID() == b.ID() })
}

func (s Secrets) make(roll string, spec SecretSpec, who string, rand io.Reader) error {
	key := secretKey(roll, spec.Name, who)
	if spec.Kind == KindRandom {
		n := spec.Bytes
		if n == 0 {
			n = SecretBytesDefault
		}
		b := make([]byte, n)
		if _, err := io.ReadFull(rand, b); err != nil {
			return fmt.Errorf("read random bytes: %w", err)
		}
		s[key] = b
		return nil
	}
	var seed [ed25519.SeedSize]byte
	if _, err := io.ReadFull(rand, seed[:]); err != nil {
		return fmt.Errorf("read random bytes: %w", err)
	}
	priv := ed25519.NewKeyFromSeed(seed[:])
	comment := roll
	if who != "" {
		comment = who
	}
	block, err := ssh.MarshalPrivateKey(priv, comment)
	if err != nil {
		return fmt.Errorf("encode private key: %w", err)
	}
	pub, err := ssh.NewPublicKey(priv.Public())
	if err != nil {
		return fmt.Errorf("encode public key: %w", err)
	}
	line := strings.TrimSuffix(string(ssh.MarshalAuthorizedKey(pub)), "\n") + " " + comment + "\n"
	s[key] = pem.EncodeToMemory(block)
	s[secretKey(roll, spec.Name+".pub", who)] = []byte(line)
	return nil
}

// HostKey returns a node's public ssh host key (authorized_keys form, no
// newline), to show and to pin: the secret "hostkey", per node, of base. Empty
// if there is none.
func (s Secrets) HostKey(node string) string {
	return strings.TrimSpace(string(s[secretKey(BaseRoll, "hostkey.pub", node)]))
}

// lookup finds a secret for one roll: who overrides for whom it is, else a node's
// is the node's own and a user's is the user's at hand.
func (x *renderer) lookup(self *Roll, ref, who, user string) ([]byte, error) {
	rollName, name := cutSecret(ref, self.Name)
	if rollName != self.Name && !self.needs(rollName) {
		return nil, fmt.Errorf("%w: %s: roll %s does not require %s", ErrSecret, ref, self.Name, rollName)
	}
	i := slices.IndexFunc(x.recipe.Rolls, func(r *Roll) bool { return r.Name == rollName })
	if i < 0 {
		return nil, fmt.Errorf("%w: %s: no roll %s in the recipe", ErrSecret, ref, rollName)
	}
	spec, ok := x.recipe.Rolls[i].secret(name)
	if !ok {
		return nil, fmt.Errorf("%w: %s: roll %s does not declare it", ErrSecret, ref, rollName)
	}
	switch {
	case who != "":
	case spec.Per == PerNode:
		who = x.node.Name
	case spec.Per == PerUser && user == "":
		return nil, fmt.Errorf("%w: %s is per user: want forEach: user, or secretUser", ErrSecret, ref)
	case spec.Per == PerUser:
		who = user
	}
	b, ok := x.cluster.Secrets[secretKey(rollName, name, who)]
	if !ok {
		return nil, fmt.Errorf("%w: %s is not among the cluster's", ErrSecret, secretKey(rollName, name, who))
	}
	return b, nil
}
