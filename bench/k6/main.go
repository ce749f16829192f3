// k6 as this project pins it: `go build -o k6 .` in this folder needs Go and nothing else.
package main

import "go.k6.io/k6/cmd"

func main() {
	cmd.Execute()
}
