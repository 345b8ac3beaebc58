package control

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"

	"vcn/api"
	"vcn/rolls"
)

// recipesCachedMax bounds the cache of resolved recipes.
const recipesCachedMax = 1024

// recipes resolves rolls for appliances. A catalog never changes, and digests
// cover whole rolls, so resolved recipes are kept.
type recipes struct {
	catalog *rolls.Catalog
	mu      sync.Mutex
	cache   map[string]resolved
}

// resolved is a recipe with what is asked of it again and again.
type resolved struct {
	recipe rolls.Recipe
	digest string
	names  []string // name@version, in order
}

func newRecipes(c *rolls.Catalog) *recipes {
	return &recipes{catalog: c, cache: map[string]resolved{}}
}

func (r *recipes) resolve(names []string, appliance string) (resolved, error) {
	sorted := slices.Sorted(slices.Values(names))
	key := appliance + "\n" + strings.Join(sorted, "\n")
	r.mu.Lock()
	res, ok := r.cache[key]
	r.mu.Unlock()
	if ok {
		return res, nil
	}
	recipe, err := r.catalog.Resolve(names, appliance)
	if err != nil {
		return resolved{}, err
	}
	res = resolved{recipe, recipe.Digest(), recipe.Names()}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.cache) >= recipesCachedMax {
		clear(r.cache)
	}
	r.cache[key] = res
	return res, nil
}

// rollProblem says to an owner what is wrong with the rolls asked for. field is
// where they stand in the request.
func rollProblem(field string, names []string, err error) error {
	known := []error{rolls.ErrInvalid, rolls.ErrMissing, rolls.ErrVersion, rolls.ErrConflict, rolls.ErrCycle, rolls.ErrClash, rolls.ErrAppliance}
	if !slices.ContainsFunc(known, func(k error) bool { return errors.Is(err, k) }) {
		return fmt.Errorf("resolve rolls %v: %w", names, err)
	}
	p := api.Invalid("the rolls cannot be used together as asked", nil)
	value, detail := strings.Join(names, ", "), err.Error()
	var re *rolls.ResolveError
	if errors.As(err, &re) {
		detail = re.Error()
		if len(re.Chain) > 0 {
			for i, n := range names {
				if n == re.Chain[0] || strings.HasPrefix(n, re.Chain[0]+"@") {
					field, value = fmt.Sprintf("%s[%d]", field, i), n
					break
				}
			}
		}
		if re.Kind == rolls.ErrMissing {
			p.Detail = "there is no such roll"
		}
	}
	p.Status = http.StatusUnprocessableEntity
	p.Errors = []api.FieldError{{Field: field, Value: value, Want: "rolls that there are and that go together (" + detail + ")"}}
	p.Next = "list the rolls there are: vcnctl roll list, or GET " + api.PathRolls
	return p
}
