package httpapi

import (
	"bytes"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// The documentation page is made on the server from the OpenAPI document, as
// plain HTML with no outside resource: hosts may have no internet, and neither
// may the browser. It is made once, when the server is.

type docPage struct {
	Title, Version, About string
	Routes                []docRoute
	Schemas               []docSchema
}

type docRoute struct {
	ID, Method, Path, Summary, Text, Auth string
	Params                                []docField
	Body                                  template.HTML
	Answers                               []docAnswer
}

type docAnswer struct {
	Status, Text string
	Type         template.HTML
}

type docField struct {
	Name, Where, Text string
	Type              template.HTML
	Required          bool
}

type docSchema struct {
	Name, Text string
	Fields     []docField
}

func renderDocs(o *huma.OpenAPI) ([]byte, error) {
	page := docPage{Title: o.Info.Title, Version: o.Info.Version, About: o.Info.Description}
	paths := make([]string, 0, len(o.Paths))
	for p := range o.Paths {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	for _, p := range paths {
		for _, m := range []struct {
			name string
			op   *huma.Operation
		}{{"GET", o.Paths[p].Get}, {"POST", o.Paths[p].Post}, {"PUT", o.Paths[p].Put}, {"PATCH", o.Paths[p].Patch}, {"DELETE", o.Paths[p].Delete}} {
			if m.op != nil {
				page.Routes = append(page.Routes, docRouteOf(m.name, p, m.op))
			}
		}
	}
	schemas := o.Components.Schemas.Map()
	names := make([]string, 0, len(schemas))
	for n := range schemas {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		page.Schemas = append(page.Schemas, docSchemaOf(n, schemas[n]))
	}
	var b bytes.Buffer
	if err := docTemplate.Execute(&b, page); err != nil {
		return nil, fmt.Errorf("render documentation: %w", err)
	}
	return b.Bytes(), nil
}

func docRouteOf(method, path string, op *huma.Operation) docRoute {
	r := docRoute{ID: op.OperationID, Method: method, Path: path, Summary: op.Summary, Text: op.Description, Auth: "no token"}
	if len(op.Security) > 0 {
		r.Auth, _ = op.Metadata[metaAccess].(access).describe()
	}
	if text, ok := op.Metadata[metaToken].(string); ok {
		r.Auth = text
	}
	for _, p := range op.Parameters {
		r.Params = append(r.Params, docField{p.Name, p.In, p.Description, docType(p.Schema), p.Required})
	}
	if op.RequestBody != nil {
		if m := op.RequestBody.Content["application/json"]; m != nil {
			r.Body = docType(m.Schema)
		}
	}
	codes := make([]string, 0, len(op.Responses))
	for c := range op.Responses {
		codes = append(codes, c)
	}
	slices.Sort(codes)
	for _, c := range codes {
		a := docAnswer{Status: c, Text: op.Responses[c].Description}
		for _, m := range op.Responses[c].Content {
			a.Type = docType(m.Schema)
		}
		r.Answers = append(r.Answers, a)
	}
	return r
}

func docSchemaOf(name string, s *huma.Schema) docSchema {
	d := docSchema{Name: name, Text: s.Description}
	props := make([]string, 0, len(s.Properties))
	for p := range s.Properties {
		props = append(props, p)
	}
	slices.Sort(props)
	for _, p := range props {
		f := s.Properties[p]
		d.Fields = append(d.Fields, docField{p, "", f.Description, docType(f), slices.Contains(s.Required, p)})
	}
	return d
}

// docType names a schema's type, with a link where it has a name of its own.
func docType(s *huma.Schema) template.HTML {
	switch {
	case s == nil:
		return "nothing"
	case s.Ref != "":
		n := template.HTMLEscapeString(s.Ref[strings.LastIndex(s.Ref, "/")+1:])
		return template.HTML(`<a href="#schema-` + n + `">` + n + `</a>`)
	case len(s.OneOf) > 0:
		var all []string
		for _, one := range s.OneOf {
			all = append(all, string(docType(one)))
		}
		return template.HTML(strings.Join(all, " or ")) // each is escaped
	case s.Type == huma.TypeArray:
		return "list of " + docType(s.Items)
	case len(s.Enum) > 0:
		var vs []string
		for _, v := range s.Enum {
			vs = append(vs, fmt.Sprint(v))
		}
		return template.HTML(template.HTMLEscapeString("one of " + strings.Join(vs, ", ")))
	case s.Format != "":
		return template.HTML(template.HTMLEscapeString(s.Type + " (" + s.Format + ")"))
	}
	return template.HTML(template.HTMLEscapeString(s.Type))
}

func (s *Server) serveDocs(w http.ResponseWriter, _ *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	// Nothing may be loaded from anywhere, which also keeps this page honest.
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	h.Set("X-Content-Type-Options", "nosniff")
	w.Write(s.docs)
}

func (s *Server) serveOpenAPI(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/openapi+json")
	w.Write(s.openapi)
}

var docTemplate = template.Must(template.New("docs").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{.Title}} {{.Version}}</title>
<style>
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
code,.path{font-family:ui-monospace,monospace}
table{border-collapse:collapse;width:100%;margin:.5rem 0}
th,td{text-align:left;vertical-align:top;padding:.25rem .6rem;border-bottom:1px solid #8884}
section{border-top:1px solid #8886;margin-top:2rem}
.method{font-weight:700;display:inline-block;min-width:4.5rem}
.auth{opacity:.75}
</style></head><body>
<h1>{{.Title}} <small>{{.Version}}</small></h1>
<p>{{.About}}</p>
<p>For programs: <a href="/openapi.json">/openapi.json</a> (OpenAPI 3.1).</p>
<h2>Routes</h2>
<table>{{range .Routes}}<tr><td><a class="path" href="#{{.ID}}"><span class="method">{{.Method}}</span>{{.Path}}</a></td><td>{{.Summary}}</td></tr>{{end}}</table>
{{range .Routes}}<section id="{{.ID}}"><h3 class="path"><span class="method">{{.Method}}</span>{{.Path}}</h3>
<p>{{.Summary}}. {{.Text}}</p><p class="auth">Token: {{.Auth}}</p>
{{if .Params}}<table><tr><th>parameter</th><th>in</th><th>type</th><th></th></tr>{{range .Params}}<tr><td><code>{{.Name}}</code>{{if .Required}} *{{end}}</td><td>{{.Where}}</td><td>{{.Type}}</td><td>{{.Text}}</td></tr>{{end}}</table>{{end}}
{{if .Body}}<p>Body: {{.Body}}</p>{{end}}
<table><tr><th>answer</th><th>body</th><th></th></tr>{{range .Answers}}<tr><td>{{.Status}}</td><td>{{.Type}}</td><td>{{.Text}}</td></tr>{{end}}</table></section>
{{end}}<h2>Types</h2>
{{range .Schemas}}<section id="schema-{{.Name}}"><h3>{{.Name}}</h3><p>{{.Text}}</p>
{{if .Fields}}<table><tr><th>field</th><th>type</th><th></th></tr>{{range .Fields}}<tr><td><code>{{.Name}}</code>{{if .Required}} *{{end}}</td><td>{{.Type}}</td><td>{{.Text}}</td></tr>{{end}}</table>{{end}}</section>
{{end}}<p>* required.</p></body></html>
`))
