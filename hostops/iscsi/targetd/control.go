package targetd

import (
	"encoding/json"
	"errors"
	"net/http"

	"vcn/hostops"
)

const maxBodyBytes = 1 << 20

// failure is an error on the wire.
type failure struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// engineInfo tells which engine serves.
type engineInfo struct {
	Name string `json:"name"`
	Why  string `json:"why"`
}

// codes are the errors that keep their identity across the socket.
var codes = []struct {
	code   string
	status int
	err    error
}{
	{"not_found", http.StatusNotFound, hostops.ErrNotFound},
	{"busy", http.StatusConflict, hostops.ErrBusy},
	{"stale", http.StatusConflict, hostops.ErrStale},
	{"foreign", http.StatusConflict, hostops.ErrForeign},
	{"invalid", http.StatusBadRequest, hostops.ErrInvalid},
}

func (s *Server) routes() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /v1/engine", func(w http.ResponseWriter, r *http.Request) {
		name, why, err := s.Engine(r.Context())
		answer(w, engineInfo{Name: name, Why: why}, err)
	})
	m.HandleFunc("GET /v1/exports", func(w http.ResponseWriter, r *http.Request) {
		l, err := s.List(r.Context())
		answer(w, l, err)
	})
	m.HandleFunc("PUT /v1/exports/{volume}", func(w http.ResponseWriter, r *http.Request) {
		var e hostops.Export
		d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBodyBytes))
		d.DisallowUnknownFields()
		if err := d.Decode(&e); err != nil {
			answer(w, nil, errors.Join(hostops.ErrInvalid, err))
			return
		}
		if e.Volume != r.PathValue("volume") {
			answer(w, nil, invalid(e, "the path names volume %q", r.PathValue("volume")))
			return
		}
		answer(w, nil, s.Publish(r.Context(), e))
	})
	m.HandleFunc("DELETE /v1/exports/{volume}", func(w http.ResponseWriter, r *http.Request) {
		answer(w, nil, s.Withdraw(r.Context(), r.PathValue("volume")))
	})
	m.HandleFunc("POST /v1/exports/{volume}/resize", func(w http.ResponseWriter, r *http.Request) {
		answer(w, nil, s.Resize(r.Context(), r.PathValue("volume")))
	})
	return m
}

func answer(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/json")
	status := http.StatusOK
	if err != nil {
		f := failure{Code: "internal", Message: err.Error()}
		status = http.StatusInternalServerError
		for _, c := range codes {
			if errors.Is(err, c.err) {
				f.Code, status = c.code, c.status
			}
		}
		v = f
	}
	if v == nil {
		v = struct{}{}
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}
