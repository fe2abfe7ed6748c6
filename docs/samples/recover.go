// Usage: NEW_PASSWORD=… go run recover.go http://localhost:9000 ada@example.com
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"
)

type fields map[string]string

type answer struct {
	Message, Reference, Email, ResetGrant string
}

var client = http.Client{Timeout: 20 * time.Second}

func fail(message any) {
	fmt.Fprintln(os.Stderr, message)
	os.Exit(1)
}

func call(base, name string, body fields) answer {
	sent, err := json.Marshal(body)
	if err != nil {
		fail(err)
	}
	response, err := client.Post(base+"/api/v1/user/"+name, "application/json", bytes.NewReader(sent))
	if err != nil {
		fail(err)
	}
	defer response.Body.Close()
	var got answer
	if err := json.NewDecoder(response.Body).Decode(&got); err != nil {
		fail(err)
	}
	if response.StatusCode != http.StatusOK {
		fail(got.Message)
	}
	return got
}

func main() {
	if len(os.Args) != 3 {
		fail("usage: NEW_PASSWORD=… recover BASE_URL EMAIL")
	}
	base, email, password := os.Args[1], os.Args[2], os.Getenv("NEW_PASSWORD")

	asked := call(base, "forgot-password", fields{"email": email})
	fmt.Printf("Type the code from the mail marked %s:\n", asked.Reference)
	line, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if err != nil {
		fail(err)
	}

	// Keep the grant: it is what ties the next call to this one.
	confirmed := call(base, "confirm-otp-reset", fields{"resetToken": strings.TrimSpace(line), "proof": "grant"})
	done := call(base, "password-reset", fields{
		"email": confirmed.Email, "password": password, "resetGrant": confirmed.ResetGrant,
	})
	fmt.Println(done.Message)
}
